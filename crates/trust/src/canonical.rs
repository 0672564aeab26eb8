//! OLPC canonical JSON: the bytes that signatures of The Update Framework are made over.
//!
//! Unlike RFC 8785 it escapes nothing in strings but `"` and `\`. Numbers are integers.

use serde_json::Value;

use crate::Fault;

/// The canonical bytes of `value`. Fails for a number that is no integer: other readers would write it in another way.
pub(crate) fn to_bytes(value: &Value) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    write(value, &mut bytes)?;
    Ok(bytes)
}

fn write(value: &Value, out: &mut Vec<u8>) -> Result<(), Fault> {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(number) if number.is_i64() || number.is_u64() => {
            out.extend_from_slice(number.to_string().as_bytes());
        }
        Value::Number(number) => {
            return Err(Fault::Malformed(format!(
                "the number {number} is no integer, and has no canonical form"
            )));
        }
        Value::String(text) => write_text(text, out),
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write(item, out)?;
            }
            out.push(b']');
        }
        Value::Object(fields) => {
            // Sorted here, whatever order the map keeps.
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by(|a, b| a.0.cmp(b.0));
            out.push(b'{');
            for (index, (name, field)) in fields.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_text(name, out);
                out.push(b':');
                write(field, out)?;
            }
            out.push(b'}');
        }
    }
    Ok(())
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text.bytes() {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_sorted_and_only_quotes_and_backslashes_escaped() {
        let value = json!({"b": [1, -2, true, null], "a": "line\nquote\" back\\ ü", "": {}});
        assert_eq!(
            String::from_utf8(to_bytes(&value).unwrap()).unwrap(),
            "{\"\":{},\"a\":\"line\nquote\\\" back\\\\ ü\",\"b\":[1,-2,true,null]}"
        );
    }

    #[test]
    fn a_fraction_has_no_canonical_form() {
        assert!(matches!(to_bytes(&json!([0.5])), Err(Fault::Malformed(_))));
    }
}
