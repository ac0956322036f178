//! WIT to schema to payloads, against an interpreter of JSON Schema that knows nothing of shapes.

use proptest::prelude::*;
use wit_parser::Resolve;

use super::*;

fn resolved(interfaces: &str) -> Result<(Resolve, wit_parser::PackageId), String> {
    let mut resolve = Resolve::default();
    let text = format!("package test:notes@1.0.0;\n{interfaces}");
    let package = resolve.push_str("notes.wit", &text).map_err(|error| format!("{error:#}"))?;
    Ok((resolve, package))
}

fn schemas(types: &str, names: &[&str]) -> Result<Schemas, String> {
    let (resolve, package) = resolved(types)?;
    let names: Vec<TypeName> = names.iter().map(|name| TypeName::parse(name).unwrap()).collect();
    wit::schemas(&resolve, package, &names).map_err(|error| error.to_string())
}

/// The schema of type `t` in an interface of these types.
fn schema(types: &str) -> Result<Value, String> {
    let schemas = schemas(&format!("interface a {{ {types} }}"), &["a.t"])?;
    Ok(schemas.schema(&TypeName::parse("a.t").unwrap()).unwrap())
}

/// JSON Schema by its words: what each keyword says of a value, all of them together.
fn naive(root: &Value, schema: &Value, value: &Value) -> bool {
    let Value::Object(schema) = schema else { return schema.as_bool().unwrap() };
    schema.iter().all(|(keyword, of)| match keyword.as_str() {
        "$schema" | "$defs" | "description" => true,
        "$ref" => naive(root, root.pointer(&of.as_str().unwrap()[1..]).unwrap(), value),
        "type" => match of.as_str().unwrap() {
            "null" => value.is_null(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            "string" => value.is_string(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            other => panic!("{other}"),
        },
        "enum" => of.as_array().unwrap().contains(value),
        "const" => of == value,
        "minimum" => integer(value).is_none_or(|n| n >= integer(of).unwrap()),
        "maximum" => integer(value).is_none_or(|n| n <= integer(of).unwrap()),
        "minLength" => value.as_str().is_none_or(|text| text.chars().count() as u64 >= of.as_u64().unwrap()),
        "maxLength" => value.as_str().is_none_or(|text| text.chars().count() as u64 <= of.as_u64().unwrap()),
        "minItems" => value.as_array().is_none_or(|list| list.len() as u64 >= of.as_u64().unwrap()),
        "maxItems" => value.as_array().is_none_or(|list| list.len() as u64 <= of.as_u64().unwrap()),
        "uniqueItems" => {
            value.as_array().is_none_or(|list| list.iter().enumerate().all(|(n, one)| !list[..n].contains(one)))
        }
        "prefixItems" => value.as_array().is_none_or(|list| {
            list.iter().zip(of.as_array().unwrap()).all(|(value, schema)| naive(root, schema, value))
        }),
        "items" => value.as_array().is_none_or(|list| {
            let before = schema.get("prefixItems").map_or(0, |prefix| prefix.as_array().unwrap().len());
            list.iter().skip(before).all(|value| naive(root, of, value))
        }),
        "properties" => value.as_object().is_none_or(|object| {
            of.as_object()
                .unwrap()
                .iter()
                .all(|(name, schema)| object.get(name).is_none_or(|value| naive(root, schema, value)))
        }),
        "required" => value
            .as_object()
            .is_none_or(|object| of.as_array().unwrap().iter().all(|name| object.contains_key(name.as_str().unwrap()))),
        "additionalProperties" => value.as_object().is_none_or(|object| {
            let known = schema.get("properties");
            let mut others = object.iter().filter(|(name, _)| known.is_none_or(|known| known.get(name).is_none()));
            others.all(|(_, value)| naive(root, of, value))
        }),
        "anyOf" => of.as_array().unwrap().iter().any(|schema| naive(root, schema, value)),
        "oneOf" => of.as_array().unwrap().iter().filter(|schema| naive(root, schema, value)).count() == 1,
        other => panic!("{other}"),
    })
}

fn integer(value: &Value) -> Option<i128> {
    value.as_i64().map(i128::from).or(value.as_u64().map(i128::from))
}

const NOTES: &str = "
    interface types {
        /// How much it matters.
        enum weight { light, /** Above all others. */ very-heavy }
        flags marks { read, to-do }
        record author { display-name: string, born: option<u16> }
        variant body { empty, plain(string), rich(list<tuple<string, f64>>) }
        /// Whatever the author says.
        type json = string;
        record point { x: s8 }
    }
    interface notes {
        use types.{author, weight as importance, body, marks, json};
        /// A note.
        record add {
            /// Whose it is.
            author: author,
            %type: importance,
            body: body,
            marks: marks,
            extra: option<json>,
            counts: map<string, u32>,
            initial: char,
            pair: list<bool, 2>,
        }
        type id = u64;
        record added { id: id, outcome: result<_, string> }
    }";

fn notes() -> Schemas {
    schemas(NOTES, &["notes.add", "notes.added", "nothing"]).unwrap()
}

#[test]
fn every_kind_of_type_has_the_schema_that_the_documentation_says() {
    for (kind, want) in [
        ("type t = bool;", json!({ "type": "boolean" })),
        ("type t = u8;", json!({ "type": "integer", "minimum": 0, "maximum": 255 })),
        ("type t = s16;", json!({ "type": "integer", "minimum": -32768, "maximum": 32767 })),
        ("type t = u64;", json!({ "type": "integer", "minimum": 0, "maximum": u64::MAX })),
        ("type t = s64;", json!({ "type": "integer", "minimum": i64::MIN, "maximum": i64::MAX })),
        ("type t = f32;", json!({ "type": "number" })),
        ("type t = char;", json!({ "type": "string", "minLength": 1, "maxLength": 1 })),
        ("type t = string;", json!({ "type": "string" })),
        ("type t = list<bool>;", json!({ "type": "array", "items": { "type": "boolean" } })),
        ("type t = option<bool>;", json!({ "anyOf": [{ "type": "boolean" }, { "type": "null" }] })),
        ("type t = map<string, bool>;", json!({ "type": "object", "additionalProperties": { "type": "boolean" } })),
        ("enum t { a, b-c }", json!({ "type": "string", "enum": ["a", "b_c"] })),
        (
            "flags t { a, b-c }",
            json!({ "type": "array", "items": { "type": "string", "enum": ["a", "b_c"] }, "uniqueItems": true }),
        ),
        (
            "type t = tuple<bool, string>;",
            json!({ "type": "array", "prefixItems": [{ "type": "boolean" }, { "type": "string" }], "items": false,
                    "minItems": 2, "maxItems": 2 }),
        ),
        (
            "record t { /// Its b.\n b-c: bool, a: option<string> }",
            json!({ "type": "object", "additionalProperties": false, "required": ["b_c"], "properties": {
                "a": { "anyOf": [{ "type": "string" }, { "type": "null" }] },
                "b_c": { "type": "boolean", "description": "Its b." } } }),
        ),
        (
            "variant t { a, /// With text.\n b-c(string) }",
            json!({ "oneOf": [{ "const": "a" }, { "type": "object", "properties": { "b_c": { "type": "string" } },
                    "required": ["b_c"], "additionalProperties": false, "description": "With text." }] }),
        ),
        (
            "/// Words.\n enum t { /// First.\n a, b }",
            json!({ "type": "string", "enum": ["a", "b"], "description": "Words.\n\n- `a`: First." }),
        ),
        ("type json = string; type t = json;", json!({ "$ref": "#/$defs/a.json", "$defs": { "a.json": {} } })),
    ] {
        assert_eq!(schema(kind).unwrap(), want, "{kind}");
    }
    let nothing = notes().schema(&TypeName::parse("nothing").unwrap()).unwrap();
    assert_eq!(nothing, json!({ "type": "object", "properties": {}, "additionalProperties": false }));
}

#[test]
fn a_type_without_json_is_refused_with_its_place() {
    for (types, why) in [
        ("resource r; record t { at: own<r> }", "a.t: field `at`: a own has no JSON"),
        ("resource r; type t = list<borrow<r>>;", "a borrow has no JSON"),
        ("type t = future<u8>;", "a future has no JSON"),
        ("type t = stream<u8>;", "a stream has no JSON"),
        ("record t { e: error-context }", "error-context has no JSON"),
        ("variant t { x(option<option<u8>>) }", "case `x`: an option of an option"),
        ("type o = option<u8>; type t = option<o>;", "an option of an option"),
        ("type t = map<u32, u8>;", "texts for keys"),
        ("resource t;", "a resource has no JSON"),
        ("record t { t: t }", "depends on itself"),
    ] {
        let error = schema(types).unwrap_err();
        assert!(error.contains(why), "{types}: {error}");
    }
}

#[test]
fn a_type_that_is_not_there_is_refused_with_the_nearest_one() {
    let error = schemas(NOTES, &["notes.ad"]).unwrap_err();
    assert!(error.ends_with("has no type `notes.ad`; did you mean `notes.add`?"), "{error}");
    let error = schemas(NOTES, &["elsewhere.unheard-of"]).unwrap_err();
    assert!(error.contains("no type `elsewhere.unheard-of`; known are ") && error.contains("notes.add"), "{error}");
}

#[test]
fn a_document_reads_back_as_it_was_written_and_holds_what_is_needed_alone() {
    let document = notes().document();
    assert_eq!(Schemas::parse(document.as_bytes()).unwrap(), notes());
    assert_eq!(notes().document(), document);
    let value: Value = serde_json::from_str(&document).unwrap();
    let names: Vec<&String> = value["$defs"].as_object().unwrap().keys().collect();
    let notes = ["notes.add", "notes.added", "notes.id", "notes.importance"];
    let types = ["types.author", "types.body", "types.json", "types.marks", "types.weight"];
    assert_eq!(names, [&notes[..], &types].concat());
}

#[test]
fn a_foreign_package_is_named_in_full() {
    let (mut resolve, _) = resolved(NOTES).unwrap();
    let text = "package test:other; interface api { use test:notes/types@1.0.0.{point}; record at { point: point } }";
    let package = resolve.push_str("other.wit", text).unwrap();
    let name = TypeName::parse("api.at").unwrap();
    let schemas = wit::schemas(&resolve, package, [&name]).unwrap();
    let schema = schemas.schema(&name).unwrap();
    assert_eq!(schema["properties"]["point"]["$ref"], "#/$defs/test:notes~1types@1.0.0.point");
    assert!(schema["$defs"]["test:notes/types@1.0.0.point"].is_object());
    assert_eq!(Schemas::parse(schemas.document().as_bytes()).unwrap(), schemas);
    assert!(schemas.fit(&name, br#"{"point": {"x": -128}}"#).is_ok());
}

#[test]
fn only_what_the_tools_write_is_read() {
    let whole: Value = serde_json::from_str(&notes().document()).unwrap();
    let with = |pointer: &str, key: &str, value: Value| {
        let mut changed = whole.clone();
        changed.pointer_mut(pointer).unwrap()[key] = value;
        Schemas::parse(changed.to_string().as_bytes()).unwrap_err().to_string()
    };
    for (pointer, key, value) in [
        ("", "title", json!("x")),
        ("", "$schema", json!("http://json-schema.org/draft-07/schema#")),
        ("", "$defs", json!([])),
        ("/$defs", "x", json!({ "not": {} })),
        ("/$defs", "x", json!({ "type": "string", "pattern": "(a*)*b" })),
        (
            "/$defs",
            "x",
            json!({ "type": "object", "properties": {}, "required": ["y"], "additionalProperties": false }),
        ),
        ("/$defs", "x", json!({ "type": "integer" })),
        ("/$defs", "x", json!({ "type": "integer", "minimum": 0.5, "maximum": 1 })),
        ("/$defs", "x", json!({ "$ref": "#/$defs/y" })),
        ("/$defs", "x", json!({ "$ref": "https://example.org/" })),
        ("/$defs", "x", json!({ "anyOf": [{ "type": "null" }] })),
        ("/$defs", "x", json!({ "oneOf": [{ "type": "string" }] })),
        ("/$defs", "x", json!(true)),
        ("/$defs/notes.add", "additionalProperties", json!(true)),
    ] {
        let error = with(pointer, key, value.clone());
        assert!(error.starts_with("schema.json: "), "{value}: {error}");
    }
    assert!(with("/$defs", "x", json!({ "$ref": "#/$defs/x" })).contains("to itself"));
    for bad in [&b""[..], b"{", b"[]", b"{}", b"\xff"] {
        assert!(Schemas::parse(bad).is_err());
    }
    let large = vec![b' '; MAX_BYTES + 1];
    assert!(Schemas::parse(&large).unwrap_err().to_string().contains("1048577 bytes; at most 1048576"));
}

#[test]
fn types_refer_to_types_at_most_64_deep() {
    let chain = |n: usize| {
        let defs = (0..n).map(|i| (format!("a.t{i}"), json!({ "$ref": format!("#/$defs/a.t{}", i + 1) })));
        let defs: Map<String, Value> = defs.chain([(format!("a.t{n}"), json!({ "type": "boolean" }))]).collect();
        Schemas::parse(json!({ "$schema": DIALECT, "$defs": defs }).to_string().as_bytes())
    };
    let deep = chain(MAX_DEPTH - 1).unwrap();
    assert!(deep.fit(&TypeName::parse("a.t0").unwrap(), b"true").is_ok());
    assert!(chain(MAX_DEPTH).unwrap_err().to_string().contains("more than 64 deep"));
    assert!(chain(20_000).is_err());
}

fn whole() -> Value {
    json!({
        "author": { "display_name": "Bo" }, "type": "very_heavy", "body": { "rich": [["a", 1.5], ["b", -2]] },
        "marks": ["to_do"], "extra": [{ "any": null }], "counts": { "a": 4294967295u32 }, "initial": "ß",
        "pair": [true, false],
    })
}

#[test]
fn what_does_not_fit_is_named_by_a_pointer_and_no_value_is_repeated() {
    let schemas = notes();
    let add = TypeName::parse("notes.add").unwrap();
    let fit = |value: &Value| schemas.fit(&add, value.to_string().as_bytes());
    assert_eq!(fit(&whole()), Ok(()));
    let secret = "S".repeat(40);
    for (at, value, pointer, why) in [
        ("/author/display_name", json!(1), "/author/display_name", "must be a text"),
        ("/author/born", json!(65536), "/author/born", "whole number from 0 to 65535"),
        ("/author/born", json!(-1), "/author/born", "whole number from 0 to 65535"),
        ("/author/born", json!(1.5), "/author/born", "whole number"),
        ("/author/age", json!(1), "/author", "has a field `age`"),
        (&format!("/author/{secret}"), json!(1), "/author", "has a field `(40 bytes)`"),
        ("/author", json!({}), "/author", "lacks the field `display_name`"),
        ("/author", json!([]), "/author", "must be an object"),
        ("/author", json!(null), "/author", "must be an object"),
        ("/type", json!("heavy"), "/type", "must be one of light, very_heavy"),
        ("/body", json!("plain"), "/body", "must be one case of empty, plain, rich"),
        ("/body", json!({ "empty": null }), "/body", "must be one case"),
        ("/body", json!({ "plain": "a", "rich": [] }), "/body", "must be one case"),
        ("/body/rich/1", json!(["b"]), "/body/rich/1", "must have 2 elements, not 1"),
        ("/body/rich/1", json!(["b", 1, 2]), "/body/rich/1", "must have 2 elements, not more"),
        ("/body/rich/1/1", json!(true), "/body/rich/1/1", "must be a number"),
        ("/marks", json!(["read", "read"]), "/marks", "has `read` twice"),
        ("/marks", json!([1]), "/marks", "must be an array of read, to_do"),
        ("/counts/a", json!(secret), "/counts/a", "whole number"),
        (&format!("/counts/{secret}"), json!(null), "/counts/(40 bytes)", "whole number"),
        ("/initial", json!("ab"), "/initial", "a text of one character"),
        ("/initial", json!(""), "/initial", "a text of one character"),
        ("/pair", json!([true]), "/pair", "must have 2 elements, not 1"),
        ("/pair/1", json!(secret), "/pair/1", "must be true or false"),
    ] {
        let mut changed = whole();
        let (parent, last) = at.rsplit_once('/').unwrap();
        let parent = changed.pointer_mut(parent).unwrap();
        match last.parse::<usize>() {
            Ok(n) => parent[n] = value.clone(),
            Err(_) => parent[last] = value.clone(),
        }
        let misfit = fit(&changed).unwrap_err();
        assert_eq!(misfit.pointer, pointer, "{value}: {misfit}");
        assert!(misfit.why.contains(why) && !misfit.to_string().contains("SSS"), "{value}: {misfit}");
    }
    for (json, why) in [
        (&br#"{"author": {"display_name": "a", "display_name": "b"}}"#[..], "has the field `display_name` twice"),
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"\"\xff\"", "is not JSON"),
        (&[&whole().to_string().into_bytes()[..], b" x"].concat(), "is not JSON: trailing"),
    ] {
        let misfit = schemas.fit(&add, json).unwrap_err();
        assert!(misfit.why.contains(why), "{misfit}");
    }
    let unknown = schemas.fit(&TypeName::parse("notes.gone").unwrap(), b"{}").unwrap_err();
    assert!(unknown.why.contains("no type"));
}

#[test]
fn nesting_ends_at_serde_jsons_128_levels() {
    let schemas = schemas("interface a { type json = string; record t { x: json } }", &["a.t"]).unwrap();
    let name = TypeName::parse("a.t").unwrap();
    let deep = |open: &str, close: &str, n: usize| format!("{{\"x\":{}0{}}}", open.repeat(n), close.repeat(n));
    assert!(schemas.fit(&name, deep("[", "]", 100).as_bytes()).is_ok());
    let unknown = format!("{{\"y\":{}", "[".repeat(200_000));
    assert!(schemas.fit(&name, unknown.as_bytes()).is_err());
    assert!(schemas.fit(&name, deep("[", "]", 200_000).as_bytes()).is_ok(), "what is any JSON costs no stack");
}

fn any_shape() -> impl Strategy<Value = Shape> {
    let words = || prop::sample::subsequence(vec!["a", "b", "c"], 1..=3);
    let words = move || words().prop_map(|words| words.into_iter().map(str::to_owned).collect::<Vec<_>>());
    let leaf = prop_oneof![
        Just(Shape::Any),
        Just(Shape::Null),
        Just(Shape::Boolean),
        Just(Shape::Integer { least: -1, most: 2 }),
        Just(Shape::Number),
        Just(Shape::Char),
        Just(Shape::Text),
        Just(Shape::Named(0)),
        words().prop_map(Shape::Enum),
        words().prop_map(Shape::Flags),
    ];
    leaf.prop_recursive(3, 12, 3, move |inner| {
        let field = (inner.clone(), any::<bool>());
        let case = prop::option::of(inner.clone());
        prop_oneof![
            (inner.clone(), prop::option::of(0u32..3))
                .prop_map(|(items, exactly)| Shape::List { items: Box::new(items), exactly }),
            prop::collection::vec(inner.clone(), 1..3).prop_map(Shape::Tuple),
            inner.clone().prop_map(|values| Shape::Map(Box::new(values))),
            inner.clone().prop_map(|some| match some {
                Shape::Option(_) => some,
                some => Shape::Option(Box::new(some)),
            }),
            prop::collection::vec(field, 0..3).prop_map(|fields| Shape::Record(
                fields
                    .into_iter()
                    .zip(["a", "b", "c"])
                    .map(|((shape, required), name)| Field {
                        name: name.into(),
                        of: Described { description: None, shape },
                        required,
                    })
                    .collect()
            )),
            prop::collection::vec(case, 1..3).prop_map(|cases| Shape::Variant(
                cases
                    .into_iter()
                    .zip(["a", "b", "c"])
                    .map(|(payload, name)| Case { name: name.into(), description: None, payload })
                    .collect()
            )),
        ]
    })
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(Value::from),
        (-3i64..5).prop_map(Value::from),
        Just(json!(0.5)),
        prop::sample::select(vec!["", "a", "b", "c", "ab"]).prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::vec((prop::sample::select(vec!["a", "b", "c"]), inner), 0..3).prop_map(|fields| fields
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect::<Map<_, _>>()
                .into()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_payload_fits_exactly_when_json_schema_says_so(shape in any_shape(), values in prop::collection::vec(any_json(), 8)) {
        let of = |name: &str, shape| Def { name: name.into(), shape: Described { description: None, shape } };
        let defs = vec![of("a.named", Shape::Enum(vec!["a".into()])), of("a.t", shape)];
        let schemas = Schemas { defs };
        prop_assert_eq!(&Schemas::parse(schemas.document().as_bytes()).unwrap(), &schemas);
        let name = TypeName::parse("a.t").unwrap();
        let schema = schemas.schema(&name).unwrap();
        for value in values {
            let fits = schemas.fit(&name, value.to_string().as_bytes());
            prop_assert_eq!(fits.is_ok(), naive(&schema, &schema, &value), "{} {}: {:?}", schema, value, fits);
        }
    }
}
