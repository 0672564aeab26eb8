//! Label selectors: which nodes an assignment is for.
//!
//! Requirements, separated by commas, all of which a node's labels must meet:
//!
//! ```text
//! role=web            the label is there with this value (== is the same)
//! site!=lab           it is not there, or has another value
//! site in (a,b)       it is there with one of these values
//! site notin (a,b)    it is not there, or has none of these values
//! gpu                 it is there
//! !gpu                it is not there
//! ```
//!
//! As in Kubernetes. Values are of any characters but white space and `,()=!`.

use std::fmt;
use std::str::FromStr;

use crate::LabelKey;
use crate::api::Labels;

/// The most bytes of a selector.
pub const SELECTOR_BYTES_MAX: usize = 4_096;

/// Requirements, at least one, all of which labels must meet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Selector(Vec<Requirement>);

#[derive(Clone, PartialEq, Eq, Debug)]
struct Requirement {
    key: LabelKey,
    test: Test,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Test {
    Is(String),
    IsNot(String),
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
}

/// A text that is not a selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("selector {text:?}: {why} at character {position}; write for example role=web,site!=lab")]
pub struct SelectorError {
    /// The text, cut at 80 characters.
    pub text: String,
    /// Where the fault is, in characters from 1.
    pub position: usize,
    /// What is wrong there.
    pub why: String,
}

impl Selector {
    /// Whether the labels meet every requirement.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| requirement.matches(labels))
    }
}

impl Requirement {
    fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match &self.test {
            Test::Is(wanted) => value == Some(wanted),
            Test::IsNot(other) => value != Some(other),
            Test::In(wanted) => value.is_some_and(|value| wanted.contains(value)),
            Test::NotIn(others) => value.is_none_or(|value| !others.contains(value)),
            Test::Exists => value.is_some(),
            Test::Absent => value.is_none(),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Requirement { key, test }) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            match test {
                Test::Is(value) => write!(f, "{key}={value}"),
                Test::IsNot(value) => write!(f, "{key}!={value}"),
                Test::In(values) => write!(f, "{key} in ({})", values.join(",")),
                Test::NotIn(values) => write!(f, "{key} notin ({})", values.join(",")),
                Test::Exists => write!(f, "{key}"),
                Test::Absent => write!(f, "!{key}"),
            }?;
        }
        Ok(())
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let mut parser = Parser { text, at: 0 };
        if text.len() > SELECTOR_BYTES_MAX {
            return Err(parser.fault(format!("it is longer than {SELECTOR_BYTES_MAX} bytes")));
        }
        let mut requirements = Vec::new();
        loop {
            requirements.push(parser.requirement()?);
            if parser.is_at_end() {
                return Ok(Self(requirements));
            }
            parser.expect(",")?;
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    /// Bytes that have been read.
    at: usize,
}

impl<'a> Parser<'a> {
    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        if self.accept("!") {
            return Ok(Requirement {
                key: self.key()?,
                test: Test::Absent,
            });
        }
        let key = self.key()?;
        let test = if self.accept("!=") {
            Test::IsNot(self.word().to_owned())
        } else if self.accept("==") || self.accept("=") {
            Test::Is(self.word().to_owned())
        } else {
            let before = self.at;
            match self.word() {
                "" => Test::Exists,
                "in" => Test::In(self.values()?),
                "notin" => Test::NotIn(self.values()?),
                other => {
                    let why = format!("expected =, !=, in, notin or a comma, found {other:?}");
                    self.at = before;
                    self.skip_white();
                    return Err(self.fault(why));
                }
            }
        };
        Ok(Requirement { key, test })
    }

    fn key(&mut self) -> Result<LabelKey, SelectorError> {
        self.skip_white();
        let start = self.at;
        let word = self.word();
        word.parse().map_err(|_| {
            self.at = start;
            if word.is_empty() {
                self.fault("expected a label key".into())
            } else {
                self.fault(format!("{word:?} is not a label key"))
            }
        })
    }

    fn values(&mut self) -> Result<Vec<String>, SelectorError> {
        self.expect("(")?;
        let mut values = Vec::new();
        loop {
            let value = self.word();
            if value.is_empty() {
                return Err(self.fault("expected a value".into()));
            }
            values.push(value.to_owned());
            if self.accept(")") {
                return Ok(values);
            }
            if !self.accept(",") {
                return Err(self.fault("expected a comma or )".into()));
            }
        }
    }

    /// What stands before the next separator; may be empty.
    fn word(&mut self) -> &'a str {
        self.skip_white();
        let rest = &self.text[self.at..];
        let end = rest
            .find(|c: char| c.is_whitespace() || ",()=!".contains(c))
            .unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn accept(&mut self, token: &str) -> bool {
        self.skip_white();
        let is_next = self.text[self.at..].starts_with(token);
        if is_next {
            self.at += token.len();
        }
        is_next
    }

    fn expect(&mut self, token: &str) -> Result<(), SelectorError> {
        if self.accept(token) {
            return Ok(());
        }
        let name = if token == "," { "a comma" } else { token };
        Err(self.fault(format!("expected {name}")))
    }

    fn is_at_end(&mut self) -> bool {
        self.skip_white();
        self.at == self.text.len()
    }

    fn skip_white(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
    }

    fn fault(&self, why: String) -> SelectorError {
        SelectorError {
            text: self.text.chars().take(80).collect(),
            position: self.text[..self.at].chars().count() + 1,
            why,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs
            .iter()
            .map(|(key, value)| (key.parse().unwrap(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn every_requirement_must_be_met() {
        let node = labels(&[("role", "web"), ("site", "lab"), ("empty", "")]);
        for (text, expected) in [
            ("role=web", true),
            ("role==web", true),
            ("role = web , site = lab", true),
            ("role=web,site=shop", false),
            ("role!=web", false),
            ("site!=shop", true),
            ("rack!=1", true),
            ("site in (shop,lab)", true),
            ("site in(shop)", false),
            ("site notin (shop, office)", true),
            ("site notin (lab)", false),
            ("rack notin (1)", true),
            ("rack in (1)", false),
            ("role", true),
            ("rack", false),
            ("!rack", true),
            ("! role", false),
            ("empty=", true),
            ("empty=,role=web", true),
            ("in in (in)", false),
        ] {
            assert_eq!(text.parse::<Selector>().unwrap().matches(&node), expected, "{text}");
        }
    }

    #[test]
    fn faults_are_pointed_at() {
        for (text, position, why) in [
            ("", 1, "expected a label key"),
            ("role=web,", 10, "expected a label key"),
            ("=web", 1, "expected a label key"),
            ("role=web site=lab", 10, "expected a comma"),
            ("role is web", 6, "expected =, !=, in, notin or a comma, found \"is\""),
            ("site in lab", 9, "expected ("),
            ("site in (lab", 13, "expected a comma or )"),
            ("site in ()", 10, "expected a value"),
            ("röle=web", 1, "\"röle\" is not a label key"),
            ("site=é=1", 7, "expected a comma"),
            ("!", 2, "expected a label key"),
        ] {
            let fault = text.parse::<Selector>().unwrap_err();
            assert_eq!((fault.position, fault.why.as_str()), (position, why), "{text}");
        }
    }

    fn value() -> impl Strategy<Value = String> {
        "[a-zA-Z0-9é:/._*-]{1,8}"
    }

    fn requirement() -> impl Strategy<Value = Requirement> {
        let key = "[a-z0-9][a-z0-9_.-]{0,6}".prop_map(|key| key.parse::<LabelKey>().unwrap());
        let test = prop_oneof![
            "[a-z0-9.]{0,8}".prop_map(Test::Is),
            "[a-z0-9.]{0,8}".prop_map(Test::IsNot),
            prop::collection::vec(value(), 1..4).prop_map(Test::In),
            prop::collection::vec(value(), 1..4).prop_map(Test::NotIn),
            Just(Test::Exists),
            Just(Test::Absent),
        ];
        (key, test).prop_map(|(key, test)| Requirement { key, test })
    }

    proptest! {
        #[test]
        fn selectors_round_trip(requirements in prop::collection::vec(requirement(), 1..5)) {
            let selector = Selector(requirements);
            prop_assert_eq!(selector.to_string().parse(), Ok(selector));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[a-z=!,() né]{0,20}") {
            if let Ok(selector) = text.parse::<Selector>() {
                prop_assert_eq!(selector.to_string().parse(), Ok(selector));
            }
        }

        #[test]
        fn opposite_requirements_never_agree(value in "[ab]", node in prop::option::of("[ab]")) {
            let node = node.map(|node| labels(&[("k", &node)])).unwrap_or_default();
            for (text, opposite) in [
                (format!("k={value}"), format!("k!={value}")),
                (format!("k in ({value},x)"), format!("k notin ({value},x)")),
                ("k".to_owned(), "!k".to_owned()),
            ] {
                let matches = |text: &str| text.parse::<Selector>().unwrap().matches(&node);
                prop_assert_ne!(matches(&text), matches(&opposite));
            }
        }
    }
}
