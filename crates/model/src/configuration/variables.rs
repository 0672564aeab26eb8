//! `[vars]`: variables of templates and playbooks.

use std::collections::BTreeMap;

use serde_json::Value as Json;
use toml::de::DeValue;

use super::value::{Reader, Value};
use crate::list::VARS_BYTES_MAX;

const EXAMPLE: &str = "[vars] and below it workers = 4";

pub(super) fn read(reader: &mut Reader<'_>, value: &Value<'_>) -> BTreeMap<String, Json> {
    let Some(table) = value.get_ref().as_table() else {
        reader.mistyped("vars", value, EXAMPLE);
        return BTreeMap::new();
    };
    let mut vars = BTreeMap::new();
    for (key, value) in table {
        let name = key.get_ref().as_ref();
        let good = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !good || name == "facts" {
            let message = format!("{name:?} cannot be a variable: letters, digits and _ can, and not \"facts\"");
            reader.fault(&key.span(), "vars", message);
        }
        if let Some(value) = plain(reader, value) {
            vars.insert(name.to_owned(), value);
        }
    }
    let bytes = crate::canonical::to_bytes(&vars).len();
    if bytes > VARS_BYTES_MAX {
        let message = format!("the variables have {bytes} bytes, more than {VARS_BYTES_MAX}: place a file instead");
        reader.fault(&value.span(), "vars", message);
    }
    vars
}

fn plain(reader: &mut Reader<'_>, value: &Value<'_>) -> Option<Json> {
    match value.get_ref() {
        DeValue::String(text) => Some(Json::String(text.to_string())),
        DeValue::Boolean(flag) => Some(Json::Bool(*flag)),
        DeValue::Integer(integer) => {
            let number = i64::from_str_radix(integer.as_str(), integer.radix()).ok();
            if number.is_none() {
                reader.fault(&value.span(), "vars", "the number is too large".into());
            }
            number.map(Json::from)
        }
        DeValue::Array(items) => {
            let all = items.iter().map(|item| plain(reader, item));
            // Each of them, so that all that is wrong is told.
            let all: Vec<Option<Json>> = all.collect();
            all.into_iter().collect::<Option<Vec<_>>>().map(Json::Array)
        }
        DeValue::Table(items) => {
            let mut table = serde_json::Map::new();
            for (key, value) in items {
                table.insert(key.get_ref().to_string(), plain(reader, value)?);
            }
            Some(Json::Object(table))
        }
        DeValue::Float(_) | DeValue::Datetime(_) => {
            let message = "variables are text, whole numbers, true, false, arrays and tables; put this one in quotes";
            reader.fault(&value.span(), "vars", message.into());
            None
        }
    }
}
