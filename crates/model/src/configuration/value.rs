//! Reading the values of `configuration.toml`, each with its place for what is wrong with it.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::CONFIGURATION_FILE;
use super::fault::{ConfigurationError, Position, nearest};

/// A value and the bytes of the text at which it stands.
pub(super) type Value<'a> = Spanned<DeValue<'a>>;

/// Bytes of the text.
pub(super) type Span = Range<usize>;

/// The text, and what has been found wrong with it.
pub(super) struct Reader<'a> {
    pub(super) text: &'a str,
    pub(super) errors: &'a mut Vec<ConfigurationError>,
    /// Whether it is TOML. If it is not, what was read of it says which keys there are, but not that something is missing.
    is_toml: bool,
}

impl<'a> Reader<'a> {
    /// Parses the text; whatever is not TOML in it is noted.
    pub(super) fn parse(text: &'a str, errors: &'a mut Vec<ConfigurationError>) -> (Self, DeTable<'a>) {
        let (table, faults) = DeTable::parse_recoverable(text);
        let mut reader = Self {
            text,
            errors,
            is_toml: faults.is_empty(),
        };
        for fault in faults {
            let span = fault.span().unwrap_or_default();
            reader.syntax(span, fault.message());
        }
        (reader, table.into_inner())
    }

    fn syntax(&mut self, span: Span, message: &str) {
        let start = self
            .text
            .get(..span.start)
            .and_then(|before| before.rfind('\n'))
            .map_or(0, |at| at + 1);
        let line = self
            .text
            .get(start..)
            .unwrap_or_default()
            .lines()
            .next()
            .unwrap_or_default();
        let key = line.split_once('=').map(|(key, _)| key.trim().to_owned());
        let message = if key.as_deref() == Some("mode") {
            MODE_ADVICE.to_owned()
        } else {
            format!("not valid TOML: {message}")
        };
        let at = Some(Position::of(self.text, span.start));
        // One slip may upset the parser several times.
        let line_number = |at: Option<Position>| at.map(|at| at.line);
        if self.errors.iter().any(|error| line_number(error.at) == line_number(at)) {
            return;
        }
        self.errors.push(ConfigurationError {
            at,
            key,
            text: Some(line.chars().take(80).collect()),
            ..ConfigurationError::new(CONFIGURATION_FILE, message)
        });
    }

    /// Notes what is wrong with the text at `span`, which belongs to `key`.
    pub(super) fn fault(&mut self, span: &Span, key: &str, message: String) {
        self.fault_with(span, key, message, None);
    }

    pub(super) fn fault_with(&mut self, span: &Span, key: &str, message: String, suggestion: Option<String>) {
        if self.is_toml {
            self.push(span, key, message, suggestion);
        }
    }

    /// Where bytes `part` of the string `value` stand, whose literal is at `span`; all of it, if it holds escapes.
    pub(super) fn inside(&self, span: &Span, value: &str, part: &Span) -> Span {
        let literal = self.text.get(span.clone()).unwrap_or_default();
        match literal.find(value) {
            Some(at) if !value.is_empty() => span.start + at + part.start..span.start + at + part.end,
            _ => span.clone(),
        }
    }

    /// Notes a key that is none of `known`.
    pub(super) fn unknown(&mut self, span: &Span, key: &str, place: &str, known: &[&str]) -> Option<String> {
        let suggestion = nearest(key, known.iter().copied());
        let mut message = format!("unknown key {key:?} {place}");
        if suggestion.is_none() {
            message = format!("{message}; known are {}", known.join(", "));
        }
        self.push(span, key, message, suggestion.clone());
        suggestion
    }

    /// Notes what is wrong with a line of another file, `None`: with all of it.
    pub(super) fn fault_in(&mut self, file: &str, line: Option<usize>, message: String) {
        self.errors.push(ConfigurationError {
            at: line.map(|line| Position { line, column: 1 }),
            ..ConfigurationError::new(file, message)
        });
    }

    fn push(&mut self, span: &Span, key: &str, message: String, suggestion: Option<String>) {
        let text = self.text.get(span.clone()).map(|text| text.chars().take(80).collect());
        self.errors.push(ConfigurationError {
            at: Some(Position::of(self.text, span.start)),
            key: Some(key.to_owned()),
            text,
            suggestion,
            ..ConfigurationError::new(CONFIGURATION_FILE, message)
        });
    }

    /// Notes that the value is not of the wanted type, with an example of one that is.
    pub(super) fn mistyped(&mut self, key: &str, value: &Value<'_>, example: &str) {
        let found = match value.get_ref() {
            DeValue::String(_) => "text",
            DeValue::Integer(_) | DeValue::Float(_) => "a number",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        };
        self.fault(
            &value.span(),
            key,
            format!("{key} cannot be {found}: write for example {example}"),
        );
    }

    pub(super) fn string(&mut self, key: &str, value: &Value<'_>, example: &str) -> Option<String> {
        let text = value.get_ref().as_str().map(ToOwned::to_owned);
        if text.is_none() {
            self.mistyped(key, value, example);
        }
        text
    }

    /// Strings, each with its place.
    pub(super) fn strings(&mut self, key: &str, value: &Value<'_>, example: &str) -> Option<Vec<(String, Span)>> {
        let items = value.get_ref().as_array().map(|array| {
            array
                .iter()
                .map(|item| item.get_ref().as_str().map(|text| (text.to_owned(), item.span())))
                .collect::<Option<Vec<_>>>()
        });
        let items = items.flatten();
        if items.is_none() {
            self.mistyped(key, value, example);
        }
        items
    }

    pub(super) fn number(&mut self, key: &str, value: &Value<'_>, most: u64) -> Option<u64> {
        let DeValue::Integer(integer) = value.get_ref() else {
            self.mistyped(key, value, &format!("{key} = 10"));
            return None;
        };
        let number = u64::from_str_radix(integer.as_str(), integer.radix()).ok();
        let good = number.filter(|number| *number <= most);
        if good.is_none() {
            self.fault(&value.span(), key, format!("{key} is a whole number from 0 to {most}"));
        }
        good
    }

    pub(super) fn boolean(&mut self, key: &str, value: &Value<'_>) -> Option<bool> {
        let found = value.get_ref().as_bool();
        if found.is_none() {
            self.mistyped(key, value, &format!("{key} = true"));
        }
        found
    }
}

/// What is said of a mode that is not in quotes.
pub(super) const MODE_ADVICE: &str =
    "a mode is octal and stands in quotes, as in mode = \"0644\"; without quotes TOML takes it for a decimal number";
