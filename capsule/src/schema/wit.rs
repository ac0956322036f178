//! From resolved WIT to shapes: for the tools alone.

use std::collections::{BTreeMap, BTreeSet};

use wit_parser::{Docs, PackageId, Resolve, Type, TypeDef, TypeDefKind, TypeId, TypeOwner};

use super::{Case, Def, Described, Field, SchemaError, Schemas, Shape, TypeName};
use crate::near;

/// The alias that stands for any JSON value.
const JSON: &str = "json";

/// The schemas of these types of a package, and of everything that they are made of. The error names the type, and the
/// nearest one where there is none of that name.
pub fn schemas<'n>(
    resolve: &Resolve,
    package: PackageId,
    names: impl IntoIterator<Item = &'n TypeName>,
) -> Result<Schemas, SchemaError> {
    let mut builder = Builder { resolve, package, found: BTreeMap::new() };
    for name in names.into_iter().filter(|name| name.parts().is_some()) {
        let id = find(resolve, package, name)?;
        builder.collect(&Type::Id(id), &[name.as_str()]).map_err(SchemaError)?;
    }
    let names: BTreeSet<&String> = builder.found.keys().collect();
    let names: Vec<&String> = names.into_iter().collect();
    let defs = builder.found.iter().map(|(name, id)| {
        let def = &resolve.types[*id];
        let description = joined(described(&def.docs), cases_described(&def.kind));
        let shape = builder.kind(&names, def).map_err(|why| SchemaError(format!("{name}: {why}")))?;
        Ok(Def { name: name.clone(), shape: Described { description, shape } })
    });
    let schemas = Schemas { defs: defs.collect::<Result<_, SchemaError>>()? };
    schemas.check_depth()?;
    Ok(schemas)
}

fn find(resolve: &Resolve, package: PackageId, name: &TypeName) -> Result<TypeId, SchemaError> {
    let interfaces = &resolve.packages[package].interfaces;
    let (interface, word) = name.parts().expect("the caller has filtered");
    let found = interfaces.get(interface).and_then(|id| resolve.interfaces[*id].types.get(word));
    found.copied().ok_or_else(|| {
        let known = interfaces.iter().flat_map(|(interface, id)| {
            resolve.interfaces[*id].types.keys().map(move |name| format!("{interface}.{name}"))
        });
        let known: Vec<String> = known.collect();
        let hint = near::meant(name.as_str(), known.iter().map(String::as_str));
        SchemaError(format!("the WIT package has no type `{name}`{hint}"))
    })
}

struct Builder<'a> {
    resolve: &'a Resolve,
    package: PackageId,
    /// Every named type that is needed, by its name in the document.
    found: BTreeMap<String, TypeId>,
}

impl<'a> Builder<'a> {
    /// Finds the named types that `of` is made of. WIT has no types that are made of themselves.
    fn collect(&mut self, of: &Type, within: &[&str]) -> Result<(), String> {
        let Type::Id(id) = of else { return Ok(()) };
        let id = self.original(*id);
        let def = &self.resolve.types[id];
        if let Some(name) = &def.name {
            let name = self.name(id, name).ok_or_else(|| {
                format!("{}: `{name}` is defined in a world; only interfaces' types have a schema", within.join(": "))
            })?;
            if self.found.insert(name, id).is_some() {
                return Ok(());
            }
        }
        let parts: Vec<&Type> = match &def.kind {
            TypeDefKind::Record(record) => record.fields.iter().map(|field| &field.ty).collect(),
            TypeDefKind::Tuple(tuple) => tuple.types.iter().collect(),
            TypeDefKind::Variant(variant) => variant.cases.iter().filter_map(|case| case.ty.as_ref()).collect(),
            TypeDefKind::Option(part) | TypeDefKind::List(part) | TypeDefKind::FixedLengthList(part, _) => vec![part],
            TypeDefKind::Type(part) => vec![part],
            TypeDefKind::Map(key, value) => vec![key, value],
            TypeDefKind::Result(result) => result.ok.iter().chain(&result.err).collect(),
            _ => Vec::new(),
        };
        parts.into_iter().try_for_each(|part| self.collect(part, within))
    }

    /// Where a `use` leads.
    fn original(&self, mut id: TypeId) -> TypeId {
        loop {
            let def = &self.resolve.types[id];
            match &def.kind {
                TypeDefKind::Type(Type::Id(used)) if self.resolve.types[*used].name == def.name => id = *used,
                _ => return id,
            }
        }
    }

    fn name(&self, id: TypeId, name: &str) -> Option<String> {
        let TypeOwner::Interface(interface) = self.resolve.types[id].owner else { return None };
        let interface = &self.resolve.interfaces[interface];
        let short = interface.name.as_ref()?;
        match interface.package {
            Some(package) if package != self.package => {
                let package = &self.resolve.packages[package].name;
                Some(format!("{}.{name}", package.interface_id(short)))
            }
            _ => Some(format!("{short}.{name}")),
        }
    }

    fn shape(&self, names: &[&String], of: &Type) -> Result<Shape, String> {
        let integer = |least, most| Shape::Integer { least, most };
        Ok(match of {
            Type::Bool => Shape::Boolean,
            Type::U8 => integer(0, u8::MAX.into()),
            Type::U16 => integer(0, u16::MAX.into()),
            Type::U32 => integer(0, u32::MAX.into()),
            Type::U64 => integer(0, u64::MAX),
            Type::S8 => integer(i8::MIN.into(), i8::MAX as u64),
            Type::S16 => integer(i16::MIN.into(), i16::MAX as u64),
            Type::S32 => integer(i32::MIN.into(), i32::MAX as u64),
            Type::S64 => integer(i64::MIN, i64::MAX as u64),
            Type::F32 | Type::F64 => Shape::Number,
            Type::Char => Shape::Char,
            Type::String => Shape::Text,
            Type::ErrorContext => return Err("an error-context has no JSON".into()),
            Type::Id(id) => {
                let id = self.original(*id);
                let def = &self.resolve.types[id];
                match def.name.as_ref().and_then(|name| self.name(id, name)) {
                    Some(name) => Shape::Named(names.binary_search(&&name).expect("collected before")),
                    None => self.kind(names, def)?,
                }
            }
        })
    }

    fn kind(&self, names: &[&String], def: &TypeDef) -> Result<Shape, String> {
        let boxed = |of: &Type| self.shape(names, of).map(Box::new);
        Ok(match &def.kind {
            TypeDefKind::Type(Type::String) if def.name.as_deref() == Some(JSON) => Shape::Any,
            TypeDefKind::Type(of) => self.shape(names, of)?,
            TypeDefKind::Record(record) => {
                let fields = record.fields.iter().map(|field| {
                    let shape = self.shape(names, &field.ty).map_err(|why| format!("field `{}`: {why}", field.name))?;
                    let of = Described { description: described(&field.docs), shape };
                    Ok(Field { name: snake(&field.name), of, required: !self.is_option(&field.ty) })
                });
                let mut fields = fields.collect::<Result<Vec<_>, String>>()?;
                fields.sort_by(|a, b| a.name.cmp(&b.name));
                Shape::Record(fields)
            }
            TypeDefKind::Flags(flags) => Shape::Flags(flags.flags.iter().map(|flag| snake(&flag.name)).collect()),
            TypeDefKind::Enum(of) => Shape::Enum(of.cases.iter().map(|case| snake(&case.name)).collect()),
            TypeDefKind::Tuple(tuple) => {
                Shape::Tuple(tuple.types.iter().map(|of| self.shape(names, of)).collect::<Result<_, _>>()?)
            }
            TypeDefKind::Variant(variant) => {
                let cases = variant.cases.iter().map(|case| {
                    let payload = case.ty.as_ref().map(|of| self.shape(names, of)).transpose();
                    let payload = payload.map_err(|why| format!("case `{}`: {why}", case.name))?;
                    Ok(Case { name: snake(&case.name), description: described(&case.docs), payload })
                });
                Shape::Variant(cases.collect::<Result<_, String>>()?)
            }
            TypeDefKind::Option(of) if self.is_option(of) => {
                return Err("an option of an option has no JSON: null would be both".into());
            }
            TypeDefKind::Option(of) => Shape::Option(boxed(of)?),
            TypeDefKind::Result(result) => {
                let case = |name: &str, of: &Option<Type>| {
                    let payload = of.as_ref().map_or(Ok(Shape::Null), |of| self.shape(names, of))?;
                    Ok::<_, String>(Case { name: name.into(), description: None, payload: Some(payload) })
                };
                Shape::Variant(vec![case("Ok", &result.ok)?, case("Err", &result.err)?])
            }
            TypeDefKind::List(of) => Shape::List { items: boxed(of)?, exactly: None },
            TypeDefKind::FixedLengthList(of, n) => Shape::List { items: boxed(of)?, exactly: Some(*n) },
            TypeDefKind::Map(Type::String, of) => Shape::Map(boxed(of)?),
            TypeDefKind::Map(..) => return Err("a map has texts for keys in JSON: write map<string, …>".into()),
            other => return Err(format!("a {} has no JSON", other.as_str())),
        })
    }

    fn is_option(&self, of: &Type) -> bool {
        let Type::Id(id) = of else { return false };
        match &self.resolve.types[*id].kind {
            TypeDefKind::Option(_) => true,
            TypeDefKind::Type(of) => self.is_option(of),
            _ => false,
        }
    }
}

/// How a name of WIT reads in JSON.
fn snake(name: &str) -> String {
    name.replace('-', "_")
}

fn described(docs: &Docs) -> Option<String> {
    docs.contents.as_deref().map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned)
}

/// What is said of the words of an enum or of flags, for which JSON Schema has no place.
fn cases_described(kind: &TypeDefKind) -> Option<String> {
    let words: Vec<(&String, &Docs)> = match kind {
        TypeDefKind::Enum(of) => of.cases.iter().map(|case| (&case.name, &case.docs)).collect(),
        TypeDefKind::Flags(of) => of.flags.iter().map(|flag| (&flag.name, &flag.docs)).collect(),
        _ => return None,
    };
    let lines = words.into_iter().filter_map(|(name, docs)| Some(format!("- `{}`: {}", snake(name), described(docs)?)));
    Some(lines.collect::<Vec<_>>().join("\n")).filter(|text| !text.is_empty())
}

fn joined(head: Option<String>, tail: Option<String>) -> Option<String> {
    match (head, tail) {
        (Some(head), Some(tail)) => Some(format!("{head}\n\n{tail}")),
        (head, tail) => head.or(tail),
    }
}
