//! WIT: what a component's interfaces look like, and whether a project's own `wit/` folder is in order.
//!
//! Owns the flat form of an interface in which two versions of it are compared: one line of text for each function and
//! each named type. Refuses to know which interfaces a host offers; that is `astrid_capsule::check`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use wit_parser::decoding::{DecodedWasm, decode};
use wit_parser::{
    Docs, Function, Handle, InterfaceId, PackageId, Resolve, Type, TypeDefKind, TypeId, UnresolvedPackageGroup,
    WorldId, WorldItem, WorldKey,
};

/// The functions and named types of one interface, each as WIT.
pub(crate) type Items = BTreeMap<String, String>;

/// What stands at a component's border, by name as it stands there.
#[derive(Debug, Default)]
pub(crate) struct Border {
    pub(crate) imports: BTreeMap<String, Items>,
    pub(crate) exports: BTreeMap<String, Items>,
}

impl Border {
    /// Reads it out of a component.
    pub(crate) fn read(component: &[u8]) -> Result<Self> {
        let DecodedWasm::Component(resolve, world) = decode(component).context("can't read the component's types")?
        else {
            bail!("the bytes are a WIT package, not a component")
        };
        let side = |items: &mut dyn Iterator<Item = (&WorldKey, &WorldItem)>| {
            items.map(|(key, item)| (resolve.name_world_key(key), items_of(&resolve, item))).collect()
        };
        let world = &resolve.worlds[world];
        Ok(Self { imports: side(&mut world.imports.iter()), exports: side(&mut world.exports.iter()) })
    }

    /// Whether it imports any function of an interface, in any version; not only types.
    pub(crate) fn uses(&self, interface: &str) -> bool {
        let named = |name: &str| name.split('@').next() == Some(interface);
        let function = |text: &String| text.starts_with("func") || text.starts_with("async func");
        self.imports.iter().any(|(name, items)| named(name) && items.values().any(function))
    }

    /// Whether it imports a function of an interface, in any version.
    pub(crate) fn calls(&self, interface: &str, function: &str) -> bool {
        let named = |name: &str| name.split('@').next() == Some(interface);
        self.imports.iter().any(|(name, items)| named(name) && items.contains_key(function))
    }
}

fn items_of(resolve: &Resolve, item: &WorldItem) -> Items {
    match item {
        WorldItem::Interface { id, .. } => {
            let interface = &resolve.interfaces[*id];
            let functions = interface.functions.values().map(|f| (f.name.clone(), function(resolve, f)));
            let types = interface.types.iter().map(|(name, id)| (name.clone(), definition(resolve, *id)));
            functions.chain(types).collect()
        }
        WorldItem::Function(f) => Items::from([(f.name.clone(), function(resolve, f))]),
        WorldItem::Type { id, .. } => Items::from([("type".to_owned(), definition(resolve, *id))]),
    }
}

fn function(resolve: &Resolve, function: &Function) -> String {
    let parameters: Vec<String> =
        function.params.iter().map(|p| format!("{}: {}", p.name, name(resolve, &p.ty))).collect();
    let result = function.result.map(|result| format!(" -> {}", name(resolve, &result))).unwrap_or_default();
    let kind = if function.kind.is_async() { "async func" } else { "func" };
    format!("{kind}({}){result}", parameters.join(", "))
}

/// A type as others name it: by its name, or what it is made of where it has none.
fn name(resolve: &Resolve, ty: &Type) -> String {
    let Type::Id(id) = ty else { return format!("{ty:?}").to_lowercase() };
    match &resolve.types[*id].name {
        Some(name) => name.clone(),
        None => definition(resolve, *id),
    }
}

/// What a type is made of. The types that it names have lines of their own.
fn definition(resolve: &Resolve, id: TypeId) -> String {
    let name = |ty: &Type| name(resolve, ty);
    let optional = |ty: &Option<Type>| ty.as_ref().map_or("_".into(), name);
    let list = |items: Vec<String>| items.join(", ");
    match &resolve.types[id].kind {
        TypeDefKind::Record(record) => {
            let fields = record.fields.iter().map(|field| format!("{}: {}", field.name, name(&field.ty)));
            format!("record {{ {} }}", list(fields.collect()))
        }
        TypeDefKind::Variant(variant) => {
            let cases = variant.cases.iter().map(|case| match &case.ty {
                Some(ty) => format!("{}({})", case.name, name(ty)),
                None => case.name.clone(),
            });
            format!("variant {{ {} }}", list(cases.collect()))
        }
        TypeDefKind::Enum(cases) => {
            format!("enum {{ {} }}", list(cases.cases.iter().map(|case| case.name.clone()).collect()))
        }
        TypeDefKind::Flags(flags) => {
            format!("flags {{ {} }}", list(flags.flags.iter().map(|flag| flag.name.clone()).collect()))
        }
        TypeDefKind::Resource => "resource".into(),
        TypeDefKind::Handle(Handle::Own(id)) => name(&Type::Id(*id)),
        TypeDefKind::Handle(Handle::Borrow(id)) => format!("borrow<{}>", name(&Type::Id(*id))),
        TypeDefKind::Tuple(tuple) => format!("tuple<{}>", list(tuple.types.iter().map(name).collect())),
        TypeDefKind::Option(ty) => format!("option<{}>", name(ty)),
        TypeDefKind::Result(result) => format!("result<{}, {}>", optional(&result.ok), optional(&result.err)),
        TypeDefKind::List(ty) => format!("list<{}>", name(ty)),
        TypeDefKind::Map(key, value) => format!("map<{}, {}>", name(key), name(value)),
        TypeDefKind::FixedLengthList(ty, length) => format!("list<{}, {length}>", name(ty)),
        TypeDefKind::Future(ty) => format!("future<{}>", optional(ty)),
        TypeDefKind::Stream(ty) => format!("stream<{}>", optional(ty)),
        // Used from elsewhere, or an alias: what it is made of in the end.
        TypeDefKind::Type(Type::Id(id)) => definition(resolve, *id),
        TypeDefKind::Type(ty) => name(ty),
        TypeDefKind::Unknown => "unknown".into(),
    }
}

/// What is missing in a project's own packages: a version, and documentation. Each with its place as `file:line:column`.
///
/// # Errors
/// When the folder's WIT can't be parsed; the text has the place.
pub(crate) fn lint(folder: &Path) -> Result<Vec<(String, String)>> {
    let mut resolve = Resolve::default();
    let own = push(&mut resolve, folder)?;
    let mut found = Vec::new();
    for id in own {
        let package = &resolve.packages[id];
        if package.name.version.is_none() {
            found.push((folder.display().to_string(), format!("the package {} has no version", package.name)));
        }
        package.interfaces.values().for_each(|id| undocumented_interface(&resolve, *id, &mut found));
        package.worlds.values().for_each(|id| undocumented_world(&resolve, *id, &mut found));
    }
    Ok(found)
}

/// The folder as one package with its `deps/`, or as a folder of packages.
fn push(resolve: &mut Resolve, folder: &Path) -> Result<Vec<PackageId>> {
    let mut packages = Vec::new();
    for entry in folder.read_dir().with_context(|| format!("can't read {}", folder.display()))? {
        let path = entry.with_context(|| format!("can't read {}", folder.display()))?.path();
        if path.extension().is_some_and(|ending| ending == "wit") {
            return Ok(vec![resolve.push_dir(folder).map_err(|error| rendered(resolve, error))?.0]);
        }
        if path.is_dir() && !path.ends_with("deps") {
            packages.push(path);
        }
    }
    packages.sort();
    let parse = |path: &_| UnresolvedPackageGroup::parse_dir(path);
    let mut groups = packages.iter().map(parse).collect::<Result<Vec<_>>>()?;
    let Some(main) = groups.pop() else { bail!("{} holds no WIT", folder.display()) };
    resolve.push_groups(main, groups).map_err(|error| rendered(resolve, error.into()))?;
    Ok(resolve.packages.iter().map(|(id, _)| id).collect())
}

fn rendered(resolve: &Resolve, error: anyhow::Error) -> anyhow::Error {
    anyhow::Error::msg(resolve.render_error(&error))
}

fn undocumented_interface(resolve: &Resolve, id: InterfaceId, found: &mut Vec<(String, String)>) {
    let interface = &resolve.interfaces[id];
    let Some(own) = &interface.name else { return };
    let mut tell = |docs: &Docs, span, what: String| {
        if docs.contents.as_ref().is_none_or(|text| text.trim().is_empty()) {
            found.push((resolve.render_location(span), format!("{what} has no documentation")));
        }
    };
    tell(&interface.docs, interface.span, format!("the interface {own}"));
    for (name, id) in &interface.types {
        let ty = &resolve.types[*id];
        // What is used from elsewhere is documented there.
        if !matches!(ty.kind, TypeDefKind::Type(Type::Id(other)) if resolve.types[other].owner != ty.owner) {
            tell(&ty.docs, ty.span, format!("the type {own}.{name}"));
        }
    }
    for function in interface.functions.values() {
        tell(&function.docs, function.span, format!("the function {own}.{}", function.name));
    }
}

fn undocumented_world(resolve: &Resolve, id: WorldId, found: &mut Vec<(String, String)>) {
    let world = &resolve.worlds[id];
    if world.docs.contents.is_none() {
        let text = format!("the world {} has no documentation", world.name);
        found.push((resolve.render_location(world.span), text));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn linted(files: &[(&str, &str)]) -> Result<Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let found = lint(folder.path())?;
        Ok(found.into_iter().map(|(place, text)| format!("{} {text}", place.rsplit('/').next().unwrap())).collect())
    }

    #[test]
    fn what_a_package_lacks_is_told_with_its_place() {
        let text = "package a:b;\ninterface c {\n    /// A d.\n    record d { e: u8 }\n    f: func(d: d);\n}\nworld w { import c; }\n";
        let found = linted(&[("a.wit", text)]).unwrap();
        let wanted = ["a:b has no version", "a.wit:2:11 the interface c", "a.wit:5:5 the function c.f", "the world w"];
        for want in wanted {
            assert!(found.iter().any(|line| line.contains(want)), "{want}: {found:#?}");
        }
        assert_eq!(found.len(), wanted.len(), "{found:#?}");
    }

    #[test]
    fn packages_beside_each_other_find_each_other_and_this_checkouts_are_in_order() {
        let b = "package a:b@0.1.0;\n/// I.\ninterface i {\n/// T.\ntype t = u8;\n}\n";
        let c = "package a:c@0.1.0;\n/// J.\ninterface j {\nuse a:b/i@0.1.0.{t};\n/// F.\nf: func() -> t;\n}\n";
        assert_eq!(linted(&[("z/b.wit", b), ("c/c.wit", c)]).unwrap(), Vec::<String>::new());
        let house = lint(&crate::workspace::checkout().join("wit")).unwrap();
        assert!(house.iter().all(|(_, text)| text.ends_with("has no documentation")), "{house:#?}");
    }

    #[test]
    fn what_does_not_parse_is_an_error_with_its_place() {
        let error =
            format!("{:#}", linted(&[("a.wit", "package a:b@0.1.0;\ninterface c {\n  f: fnc();\n}\n")]).unwrap_err());
        assert!(error.contains("a.wit:3:"), "{error}");
        assert!(linted(&[("deps/x/x.wit", "package a:b;")]).is_err());
    }
}
