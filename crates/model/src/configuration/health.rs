//! `[[health]]`: what must succeed when all steps have ended well.

use super::Tree;
use super::value::{Reader, Value};
use crate::list::{HEALTH_CHECKS_MAX, HEALTH_SECONDS_MAX, HealthCheck};
use crate::units::parse_duration;

const EXAMPLE: &str = "run = [\"curl\", \"-fsS\", \"http://127.0.0.1/\"]";
pub(super) const KEYS: [&str; 3] = ["run", "within", "stable_for"];
/// In which a check must succeed if it does not say otherwise.
const WITHIN_SECONDS: u64 = 60;

pub(super) fn read(reader: &mut Reader<'_>, value: &Value<'_>) -> Vec<HealthCheck> {
    let Some(items) = value.get_ref().as_array() else {
        let message = "each health check begins with [[health]], in two pairs of brackets";
        reader.fault(&value.span(), "health", message.to_owned());
        return Vec::new();
    };
    if items.len() > HEALTH_CHECKS_MAX {
        let message = format!(
            "there are {} health checks; at most {HEALTH_CHECKS_MAX} are possible",
            items.len()
        );
        reader.fault(&value.span(), "health", message);
    }
    items.iter().filter_map(|item| check(reader, item)).collect()
}

fn check(reader: &mut Reader<'_>, item: &Value<'_>) -> Option<HealthCheck> {
    let Some(table) = item.get_ref().as_table() else {
        reader.mistyped("health", item, "[[health]]");
        return None;
    };
    for (key, _) in table {
        if !KEYS.contains(&key.get_ref().as_ref()) {
            reader.unknown(&key.span(), key.get_ref(), "in a health check", &KEYS);
        }
    }
    let run = match table.get("run") {
        Some(value) => {
            let words = reader.strings("run", value, EXAMPLE)?;
            if words.is_empty() {
                reader.mistyped("run", value, EXAMPLE);
            }
            words.into_iter().map(|(word, _)| word).collect()
        }
        None => {
            let message = format!("the health check does nothing: add {EXAMPLE}");
            reader.fault(&item.span(), "run", message);
            Vec::new()
        }
    };
    let mut seconds = |key: &str, usual: u64| {
        let Some(value) = table.get(key) else { return usual };
        let Some(text) = reader.string(key, value, &format!("{key} = \"1m\"")) else {
            return usual;
        };
        match parse_duration(&text) {
            Ok(duration) if duration.as_secs() < HEALTH_SECONDS_MAX => {
                return duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
            }
            Ok(_) => reader.fault(&value.span(), key, "a health check may take a day at most".into()),
            Err(fault) => reader.fault(&value.span(), key, fault.to_string()),
        }
        usual
    };
    Some(HealthCheck {
        run,
        within_seconds: seconds("within", WITHIN_SECONDS),
        stable_for_seconds: seconds("stable_for", 0),
    })
}

/// The entries that checks name, as a shell does.
pub(super) fn named<'c>(checks: &'c [HealthCheck], tree: &Tree<'_>) -> Vec<&'c String> {
    let words = checks.iter().flat_map(|check| &check.run);
    words
        .filter(|word| tree.find(word.strip_prefix("./").unwrap_or(word)).is_some())
        .collect()
}
