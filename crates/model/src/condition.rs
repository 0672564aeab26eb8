//! Conditions over a machine's facts, such as `facts.memory_mb >= 2048 and facts.distribution in ["debian", "ubuntu"]`.
//!
//! ```text
//! or      = and ("or" and)*
//! and     = not ("and" not)*
//! not     = "not" not | compare
//! compare = operand (("==" | "!=" | "<" | "<=" | ">" | ">=" | "in" | "not" "in") operand)?
//! operand = "facts." NAME | TEXT | NUMBER | "true" | "false" | "[" operand ("," operand)* "]" | "(" or ")"
//! ```
//!
//! Types are checked when a condition is published: text is compared with text, numbers with numbers, and what stands alone is
//! true or false. `in` looks for an item in an array, or for text in text.

use std::fmt;

use crate::configuration::nearest;
use crate::facts::{FACTS, Fact, FactType, Facts};

/// The most bytes of a condition.
pub const CONDITION_BYTES_MAX: usize = 4_096;
/// The deepest that parentheses and `not` are nested.
const DEPTH_MAX: usize = 32;

/// A condition that was understood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Condition(Node);

/// What is wrong with a condition.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct ConditionError {
    /// Bytes of the condition at which it is.
    pub at: std::ops::Range<usize>,
    /// What is wrong.
    pub message: String,
    /// What was meant, probably.
    pub suggestion: Option<String>,
}

impl fmt::Display for ConditionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at character {}: {}", self.at.start + 1, self.message)
    }
}

/// What is done with each fact and its place.
type See<'a> = dyn FnMut(&str, &std::ops::Range<usize>) -> Result<(), ConditionError> + 'a;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Compare {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    NotIn,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Node {
    Or(Box<Node>, Box<Node>),
    And(Box<Node>, Box<Node>),
    Not(Box<Node>),
    Compare(Compare, Box<Node>, Box<Node>),
    Fact(String, std::ops::Range<usize>),
    Value(Fact),
    Array(Vec<Node>),
}

/// What an operand comes to.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Value {
    One(Fact),
    Many(Vec<Fact>),
}

/// What a part of a condition comes to, as far as that is known before there are facts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Type {
    One(FactType),
    /// An array, of one type unless it is empty.
    Many(Option<FactType>),
    /// A fact that only a newer version knows.
    Unknown,
}

impl Condition {
    /// Parses, and checks the types. Facts that this version does not know may stand in it: a newer version may have written it.
    pub fn parse(text: &str) -> Result<Self, ConditionError> {
        if text.len() > CONDITION_BYTES_MAX {
            return Err(fault(
                0..text.len(),
                format!("it has more than {CONDITION_BYTES_MAX} bytes"),
            ));
        }
        let mut parser = Parser {
            tokens: tokens(text)?,
            next: 0,
            end: text.len(),
            depth: 0,
        };
        let (node, kind, at) = parser.or()?;
        if let Some((token, at)) = parser.tokens.get(parser.next) {
            return Err(fault(
                at.clone(),
                format!("{token} cannot follow here: \"and\" or \"or\" is missing"),
            ));
        }
        flag(kind, &at)?;
        Ok(Self(node))
    }

    /// Like `parse`, and every fact must be one of `facts::FACTS`.
    pub fn parse_known(text: &str) -> Result<Self, ConditionError> {
        let condition = Self::parse(text)?;
        condition.0.each_fact(&mut |name, at| {
            if crate::facts::find(name).is_some() {
                return Ok(());
            }
            let names = || FACTS.iter().map(|fact| fact.name);
            let suggestion = nearest(name, names());
            let mut message = format!("there is no fact {name:?}");
            if suggestion.is_none() {
                message = format!("{message}; known are {}", names().collect::<Vec<_>>().join(", "));
            }
            Err(ConditionError {
                at: at.clone(),
                message,
                suggestion,
            })
        })?;
        Ok(condition)
    }

    /// Whether it holds on a machine.
    ///
    /// # Errors
    /// The name of a fact that the machine does not know.
    pub fn holds(&self, facts: &Facts) -> Result<bool, String> {
        self.0.truth(facts)
    }
}

impl Node {
    fn each_fact(&self, see: &mut See<'_>) -> Result<(), ConditionError> {
        match self {
            Self::Or(a, b) | Self::And(a, b) | Self::Compare(_, a, b) => {
                a.each_fact(see)?;
                b.each_fact(see)
            }
            Self::Not(a) => a.each_fact(see),
            Self::Fact(name, at) => see(name, at),
            Self::Value(_) => Ok(()),
            Self::Array(items) => items.iter().try_for_each(|item| item.each_fact(see)),
        }
    }

    fn truth(&self, facts: &Facts) -> Result<bool, String> {
        Ok(self.value(facts)? == Value::One(Fact::Flag(true)))
    }

    fn value(&self, facts: &Facts) -> Result<Value, String> {
        let flag = |flag| Ok(Value::One(Fact::Flag(flag)));
        match self {
            Self::Or(a, b) => flag(a.truth(facts)? || b.truth(facts)?),
            Self::And(a, b) => flag(a.truth(facts)? && b.truth(facts)?),
            Self::Not(a) => flag(!a.truth(facts)?),
            Self::Fact(name, _) => facts.0.get(name).cloned().map(Value::One).ok_or_else(|| name.clone()),
            Self::Value(fact) => Ok(Value::One(fact.clone())),
            Self::Array(items) => {
                let mut all = Vec::with_capacity(items.len());
                for item in items {
                    match item.value(facts)? {
                        Value::One(fact) => all.push(fact),
                        Value::Many(facts) => all.extend(facts),
                    }
                }
                Ok(Value::Many(all))
            }
            Self::Compare(how, a, b) => flag(how.holds(&a.value(facts)?, &b.value(facts)?)),
        }
    }
}

impl Compare {
    fn holds(self, a: &Value, b: &Value) -> bool {
        let order = match (a, b) {
            (Value::One(Fact::Number(a)), Value::One(Fact::Number(b))) => Some(a.cmp(b)),
            (Value::One(Fact::Text(a)), Value::One(Fact::Text(b))) => Some(a.cmp(b)),
            _ => None,
        };
        match self {
            Self::Equal => a == b,
            Self::NotEqual => a != b,
            Self::Less => order.is_some_and(std::cmp::Ordering::is_lt),
            Self::LessOrEqual => order.is_some_and(std::cmp::Ordering::is_le),
            Self::Greater => order.is_some_and(std::cmp::Ordering::is_gt),
            Self::GreaterOrEqual => order.is_some_and(std::cmp::Ordering::is_ge),
            Self::In => match (a, b) {
                (Value::One(a), Value::Many(all)) => all.contains(a),
                (Value::One(Fact::Text(a)), Value::One(Fact::Text(b))) => b.contains(a.as_str()),
                _ => false,
            },
            Self::NotIn => !Self::In.holds(a, b),
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Token {
    Word(String),
    Text(String),
    Number(i64),
    Sign(&'static str),
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(word) => write!(f, "{word:?}"),
            Self::Text(text) => write!(f, "the text {text:?}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Sign(sign) => write!(f, "{sign:?}"),
        }
    }
}

/// Signs, the longer of two that begin alike first.
const SIGNS: [&str; 11] = ["==", "!=", "<=", ">=", "<", ">", "(", ")", "[", "]", ","];

type Placed<T> = (T, std::ops::Range<usize>);

fn fault(at: std::ops::Range<usize>, message: impl Into<String>) -> ConditionError {
    ConditionError {
        at,
        message: message.into(),
        suggestion: None,
    }
}

fn tokens(text: &str) -> Result<Vec<Placed<Token>>, ConditionError> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        if first.is_whitespace() {
            at += first.len_utf8();
            continue;
        }
        let (token, len) = if let Some(sign) = SIGNS.into_iter().find(|sign| rest.starts_with(sign)) {
            (Token::Sign(sign), sign.len())
        } else if first == '"' || first == '\'' {
            let Some(len) = rest[1..].find(first) else {
                return Err(fault(at..text.len(), "this text has no end"));
            };
            (Token::Text(rest[1..=len].to_owned()), len + 2)
        } else {
            let len = rest
                .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')))
                .unwrap_or(rest.len());
            let word = &rest[..len];
            if len == 0 {
                let len = first.len_utf8();
                let mut error = fault(at..at + len, format!("{first:?} means nothing here"));
                error.suggestion = match rest.get(..2) {
                    Some("&&") => Some("and".to_owned()),
                    Some("||") => Some("or".to_owned()),
                    _ => match first {
                        '=' => Some("==".to_owned()),
                        '!' => Some("not".to_owned()),
                        _ => None,
                    },
                };
                return Err(error);
            }
            if first.is_ascii_digit() || first == '-' {
                let number = word.parse().map_err(|_| {
                    fault(
                        at..at + len,
                        format!("{word:?} is no whole number; text stands in quotes"),
                    )
                })?;
                (Token::Number(number), len)
            } else {
                (Token::Word(word.to_owned()), len)
            }
        };
        tokens.push((token, at..at + len));
        at += len;
    }
    Ok(tokens)
}

struct Parser {
    tokens: Vec<Placed<Token>>,
    next: usize,
    end: usize,
    depth: usize,
}

/// A part, its type, and where it stands.
type Part = (Node, Type, std::ops::Range<usize>);

impl Parser {
    fn word(&mut self, word: &str) -> bool {
        let is = matches!(self.tokens.get(self.next), Some((Token::Word(found), _)) if found == word);
        self.next += usize::from(is);
        is
    }

    fn sign(&mut self, sign: &str) -> bool {
        let is = matches!(self.tokens.get(self.next), Some((Token::Sign(found), _)) if *found == sign);
        self.next += usize::from(is);
        is
    }

    fn or(&mut self) -> Result<Part, ConditionError> {
        let mut left = self.and()?;
        while self.word("or") {
            let right = self.and()?;
            left = joined(left, right, Node::Or)?;
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Part, ConditionError> {
        let mut left = self.not()?;
        while self.word("and") {
            let right = self.not()?;
            left = joined(left, right, Node::And)?;
        }
        Ok(left)
    }

    fn not(&mut self) -> Result<Part, ConditionError> {
        let start = self.tokens.get(self.next).map_or(self.end, |(_, at)| at.start);
        if !self.word("not") {
            return self.compare();
        }
        self.deeper(start)?;
        let (node, kind, at) = self.not()?;
        self.depth -= 1;
        flag(kind, &at)?;
        Ok((Node::Not(Box::new(node)), Type::One(FactType::Flag), start..at.end))
    }

    fn compare(&mut self) -> Result<Part, ConditionError> {
        let (left, left_type, left_at) = self.operand()?;
        let Some(how) = self.comparison() else {
            return Ok((left, left_type, left_at));
        };
        let (right, right_type, right_at) = self.operand()?;
        let at = left_at.start..right_at.end;
        check(how, left_type, right_type).map_err(|message| fault(at.clone(), message))?;
        let node = Node::Compare(how, Box::new(left), Box::new(right));
        Ok((node, Type::One(FactType::Flag), at))
    }

    fn comparison(&mut self) -> Option<Compare> {
        const SIGNS: [(&str, Compare); 6] = [
            ("==", Compare::Equal),
            ("!=", Compare::NotEqual),
            ("<=", Compare::LessOrEqual),
            (">=", Compare::GreaterOrEqual),
            ("<", Compare::Less),
            (">", Compare::Greater),
        ];
        if self.word("in") {
            return Some(Compare::In);
        }
        if self.word("not") {
            if self.word("in") {
                return Some(Compare::NotIn);
            }
            self.next -= 1;
        }
        SIGNS.into_iter().find_map(|(sign, how)| self.sign(sign).then_some(how))
    }

    fn operand(&mut self) -> Result<Part, ConditionError> {
        let Some((token, at)) = self.tokens.get(self.next).cloned() else {
            let message = "something is missing here: a fact, text in quotes, or a number";
            return Err(fault(self.end..self.end, message));
        };
        self.next += 1;
        let one = |fact, kind| Ok((Node::Value(fact), Type::One(kind), at.clone()));
        match token {
            Token::Number(number) => one(Fact::Number(number), FactType::Number),
            Token::Text(text) => one(Fact::Text(text), FactType::Text),
            Token::Word(word) if word == "true" || word == "false" => one(Fact::Flag(word == "true"), FactType::Flag),
            Token::Word(word) => match word.strip_prefix("facts.") {
                Some(name) => {
                    let kind = crate::facts::find(name).map_or(Type::Unknown, |fact| Type::One(fact.kind));
                    Ok((Node::Fact(name.to_owned(), at.clone()), kind, at))
                }
                None if crate::facts::find(&word).is_some() => Err(ConditionError {
                    suggestion: Some(format!("facts.{word}")),
                    ..fault(at, format!("{word:?} means nothing here"))
                }),
                None => Err(fault(
                    at,
                    format!("{word:?} is no fact; text stands in quotes: '{word}'"),
                )),
            },
            Token::Sign("(") => {
                self.deeper(at.start)?;
                let (node, kind, inner) = self.or()?;
                self.depth -= 1;
                if !self.sign(")") {
                    return Err(fault(at.start..inner.end, "\")\" is missing"));
                }
                Ok((node, kind, at.start..inner.end + 1))
            }
            Token::Sign("[") => self.array(at.start),
            Token::Sign(sign) => Err(fault(at, format!("{sign:?} cannot stand here"))),
        }
    }

    fn array(&mut self, start: usize) -> Result<Part, ConditionError> {
        let mut items = Vec::new();
        let mut kind = None;
        self.deeper(start)?;
        while !self.sign("]") {
            if !items.is_empty() && !self.sign(",") {
                return Err(fault(start..self.end, "\",\" or \"]\" is missing"));
            }
            if self.sign("]") {
                break;
            }
            let (node, item, at) = self.operand()?;
            match (item, kind) {
                (Type::One(item), None) => kind = Some(item),
                (Type::One(item), Some(kind)) if item == kind => {}
                (Type::Unknown, _) => {}
                _ => return Err(fault(at, "an array holds items of one type")),
            }
            items.push(node);
        }
        self.depth -= 1;
        let end = self.tokens[self.next - 1].1.end;
        Ok((Node::Array(items), Type::Many(kind), start..end))
    }

    fn deeper(&mut self, at: usize) -> Result<(), ConditionError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(fault(at..self.end, "it is nested too deeply"));
        }
        Ok(())
    }
}

fn joined(left: Part, right: Part, join: fn(Box<Node>, Box<Node>) -> Node) -> Result<Part, ConditionError> {
    flag(left.1, &left.2)?;
    flag(right.1, &right.2)?;
    let at = left.2.start..right.2.end;
    Ok((join(Box::new(left.0), Box::new(right.0)), Type::One(FactType::Flag), at))
}

fn flag(kind: Type, at: &std::ops::Range<usize>) -> Result<(), ConditionError> {
    match kind {
        Type::One(FactType::Flag) | Type::Unknown => Ok(()),
        Type::One(kind) => Err(fault(
            at.clone(),
            format!(
                "this is {}, and must be true or false: compare it with something",
                kind.name()
            ),
        )),
        Type::Many(_) => Err(fault(at.clone(), "this is an array, and must be true or false")),
    }
}

fn check(how: Compare, left: Type, right: Type) -> Result<(), String> {
    let same = |a: FactType, b: FactType| {
        if a == b {
            Ok(())
        } else {
            Err(format!("{} cannot be compared with {}", a.name(), b.name()))
        }
    };
    match (how, left, right) {
        (_, Type::Unknown, _)
        | (_, _, Type::Unknown)
        | (Compare::In | Compare::NotIn, Type::One(FactType::Text), Type::One(FactType::Text)) => Ok(()),
        (Compare::In | Compare::NotIn, Type::One(item), Type::Many(items)) => {
            items.map_or(Ok(()), |items| same(item, items))
        }
        (Compare::In | Compare::NotIn, ..) => {
            Err("\"in\" wants an array behind it, such as [\"debian\", \"ubuntu\"]".into())
        }
        (Compare::Equal | Compare::NotEqual, Type::One(a), Type::One(b)) => same(a, b),
        (_, Type::One(FactType::Flag), Type::One(FactType::Flag)) => Err("true and false have no order".into()),
        (_, Type::One(a), Type::One(b)) => same(a, b),
        _ => Err("an array is compared with \"in\"".into()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn facts() -> Facts {
        let mut facts = Facts::default();
        facts.set("memory_mb", Fact::Number(4_096));
        facts.set("distribution", Fact::Text("debian".into()));
        facts.set("distribution_like", Fact::Text("debian ubuntu".into()));
        facts.set("arch", Fact::Text("x86_64".into()));
        facts
    }

    #[test]
    fn conditions_hold_as_they_read() {
        for (text, expected) in [
            ("facts.memory_mb >= 2048", true),
            ("facts.memory_mb > 4096", false),
            ("facts.memory_mb != 4096 or facts.arch == 'x86_64'", true),
            (
                "facts.distribution in [\"debian\", \"ubuntu\"] and facts.memory_mb < 5000",
                true,
            ),
            ("facts.distribution not in ['debian',]", false),
            ("'ubuntu' in facts.distribution_like", true),
            ("not facts.memory_mb >= 2048", false),
            ("not (facts.arch == 'a' or facts.arch == 'b') and true", true),
            ("true or false and false", true),
            ("-1 < 0", true),
            ("facts.arch in []", false),
        ] {
            assert_eq!(
                Condition::parse_known(text).unwrap().holds(&facts()),
                Ok(expected),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place_and_what_was_meant() {
        for (text, at, message, suggestion) in [
            ("facts.memroy_mb > 1", 0..15, "no fact \"memroy_mb\"", Some("memory_mb")),
            (
                "facts.memory_mb > '1'",
                0..21,
                "a number cannot be compared with text",
                None,
            ),
            ("facts.memory_mb = 1", 16..17, "means nothing", Some("==")),
            ("facts.arch == x86_64", 14..20, "text stands in quotes", None),
            ("arch == 'a'", 0..4, "means nothing", Some("facts.arch")),
            ("facts.arch", 0..10, "must be true or false", None),
            ("facts.arch == 'a' facts.os == 'b'", 18..26, "is missing", None),
            ("facts.arch ==", 13..13, "something is missing", None),
            ("true && false", 5..6, "means nothing", Some("and")),
            ("(true", 0..5, "is missing", None),
            ("facts.arch == 'a", 14..16, "no end", None),
            ("facts.memory_mb in 3", 0..20, "wants an array", None),
            ("['a', 1] == 1", 6..7, "one type", None),
            ("1.5 < 2", 0..3, "no whole number", None),
            ("", 0..0, "something is missing", None),
        ] {
            let error = Condition::parse_known(text).unwrap_err();
            assert_eq!(error.at, at, "{text}: {error}");
            assert!(error.message.contains(message), "{text}: {error}");
            assert_eq!(error.suggestion.as_deref(), suggestion, "{text}");
        }
    }

    #[test]
    fn a_fact_of_a_newer_version_is_understood_and_then_not_known() {
        let condition = Condition::parse("facts.gpu_count > 1").unwrap();
        assert_eq!(condition.holds(&facts()), Err("gpu_count".to_owned()));
        assert!(Condition::parse_known("facts.gpu_count > 1").is_err());
    }

    #[test]
    fn depth_is_limited() {
        assert!(Condition::parse(&format!("{}true{}", "(".repeat(20), ")".repeat(20))).is_ok());
        assert!(Condition::parse(&format!("{}true", "(".repeat(2_000))).is_err());
        assert!(Condition::parse(&format!("{}true", "not ".repeat(900))).is_err());
        assert!(Condition::parse(&" ".repeat(CONDITION_BYTES_MAX + 1)).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_understood_or_refused_with_a_place(
            text in "(facts\\.|arch|memory_mb| |and|or|not|in|==|<|'a'|[0-9]|\\(|\\)|\\[|\\]|,|é|true){0,16}"
        ) {
            match Condition::parse(&text) {
                Ok(condition) => { let _ = condition.holds(&facts()); }
                Err(error) => prop_assert!(error.at.start <= error.at.end && error.at.end <= text.len()),
            }
        }
    }
}
