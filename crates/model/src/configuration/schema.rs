//! The JSON Schema of `configuration.toml`, for editors. Made of the same table as the reader.

use serde_json::{Map, Value, json};

use super::INCLUDES_MAX;
use super::keys::{KEYS, KINDS, Key, Shape};
use super::names::{ARCHIVES, PACKAGES};
use crate::list::RETRIES_MAX;

const DURATION: &str = "^([0-9]+ *(w|d|h|m|s|ms) *)+$";

/// The schema, as docs/configuration.schema.json has it: draft 2020-12.
pub fn schema() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "configuration.toml of Potluck",
        "type": "object",
        "additionalProperties": false,
        "anyOf": [{"required": ["step"]}, {"required": ["include"]}],
        "properties": {
            "name": {
                "type": "string",
                "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
                "description": "Name of the configuration; else the directory's.",
            },
            "include": {
                "type": "array",
                "maxItems": INCLUDES_MAX,
                "description": "Releases of other configurations that are part of this one: base, base@3, base@>=3.",
                "items": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}(@.+)?$"},
            },
            "vars": {
                "type": "object",
                "description": "Variables of templates and playbooks: text, whole numbers, true, false, arrays and tables.",
                "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$", "not": {"const": "facts"}},
                "additionalProperties": {"$ref": "#/$defs/value"},
            },
            "step": {
                "type": "array",
                "minItems": 1,
                "description": "What is done, in this order.",
                "items": {"oneOf": KINDS.map(|kind| json!({"$ref": format!("#/$defs/{kind}")}))},
            },
            "health": {
                "type": "array",
                "description": "What must succeed when all steps have ended well.",
                "items": {
                    "type": "object",
                    "additionalProperties": false,
                    "required": ["run"],
                    "properties": {
                        "run": {"type": "array", "minItems": 1, "items": {"type": "string"}, "description": "A command."},
                        "within": {"type": "string", "pattern": DURATION, "description": "In which it must succeed; 1m."},
                        "stable_for": {"type": "string", "pattern": DURATION, "description": "For which it must go on to."},
                    },
                },
            },
        },
        "$defs": definitions(),
    })
}

fn definitions() -> Map<String, Value> {
    let mut definitions = Map::new();
    for kind in KINDS {
        let mut properties = Map::new();
        let own = KEYS
            .iter()
            .filter(|key| key.kinds.is_empty() || key.kinds.contains(&kind));
        for key in own {
            properties.insert(key.name.to_owned(), property(key, kind));
        }
        let mut required = vec![kind];
        if matches!(kind, "file" | "template" | "archive") {
            required.push("dest");
        }
        if kind == "link" {
            required.push("target");
        }
        let mut definition = json!({
            "type": "object",
            "additionalProperties": false,
            "required": required,
            "properties": properties,
        });
        if kind == "service" {
            definition["anyOf"] = json!([{"required": ["state"]}, {"required": ["enabled"]}]);
        }
        definitions.insert(kind.to_owned(), definition);
    }
    definitions.insert(
        "value".to_owned(),
        json!({
            "type": ["string", "integer", "boolean", "array", "object"],
            "items": {"$ref": "#/$defs/value"},
            "additionalProperties": {"$ref": "#/$defs/value"},
        }),
    );
    definitions
}

fn property(key: &Key, kind: &str) -> Value {
    const ABSOLUTE: &str = "^/";
    let words = || json!({"type": "array", "items": {"type": "string"}});
    let ends = |ends: &[&str]| format!("({})$", ends.join("|").replace('.', "\\."));
    let mut property = match key.shape {
        Shape::Source if key.name == "archive" => json!({"type": "string", "pattern": ends(&ARCHIVES)}),
        Shape::Text | Shape::Source => json!({"type": "string"}),
        Shape::Absolute => json!({"type": "string", "pattern": ABSOLUTE}),
        Shape::Mode => json!({"type": "string", "pattern": "^[0-7]{3,4}$"}),
        Shape::Duration => json!({"type": "string", "pattern": DURATION}),
        Shape::Number => json!({"type": "integer", "minimum": 0}),
        Shape::Flag => json!({"type": "boolean"}),
        Shape::Words => words(),
        Shape::WordOrWords => {
            let one = json!({"type": "string", "pattern": ends(&PACKAGES)});
            json!({"oneOf": [one, {"type": "array", "minItems": 1, "items": one}]})
        }
        Shape::Command => json!({"type": "array", "minItems": 1, "items": {"type": "string"}}),
        Shape::Variables => json!({
            "type": "object",
            "propertyNames": {"not": {"pattern": "^POTLUCK_|=|^$"}},
            "additionalProperties": {"type": "string"},
        }),
        Shape::Exit(meanings) => json!({
            "type": "object",
            "propertyNames": {"pattern": "^[0-9]{1,3}$"},
            "additionalProperties": {"enum": meanings},
        }),
        Shape::OneOf(values) => json!({"enum": values}),
        Shape::Retry => json!({
            "type": "object",
            "additionalProperties": false,
            "properties": {
                "times": {"type": "integer", "minimum": 1, "maximum": RETRIES_MAX},
                "delay": {"type": "string", "pattern": DURATION},
            },
        }),
        Shape::Limits => json!({
            "type": "object",
            "additionalProperties": false,
            "properties": {
                "memory": {"type": "string", "pattern": "^[0-9]"},
                "cpu": {"type": "string", "pattern": "^[0-9]+%$"},
            },
        }),
    };
    let about = if key.name == "env" && kind == "ansible" {
        "Environment variables of ansible-playbook."
    } else {
        key.about
    };
    property["description"] = json!(about);
    property
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_that_is_published_is_that_of_the_reader() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.schema.json");
        let text = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
        if std::env::var_os("UPDATE_SCHEMA").is_some() {
            std::fs::write(path, &text).unwrap();
        }
        let published = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            published == text,
            "docs/configuration.schema.json is not what the keys come to: run this test with UPDATE_SCHEMA=1"
        );
    }

    #[test]
    fn every_kind_has_a_key_of_its_own_name_and_a_definition() {
        let schema = schema();
        for kind in KINDS {
            let definition = &schema["$defs"][kind];
            assert!(definition["properties"][kind].is_object(), "{kind}");
            assert!(definition["properties"]["timeout"].is_object(), "{kind}");
        }
        for key in KEYS {
            assert!(key.kinds.iter().all(|kind| KINDS.contains(kind)), "{}", key.name);
        }
    }
}
