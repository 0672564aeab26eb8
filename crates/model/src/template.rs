//! Templates: Jinja, strict. What is not defined is an error and not empty text.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, UndefinedBehavior};
use serde::Serialize;

use crate::facts::Facts;
use crate::list::Settings;

/// The most bytes of a template.
pub const TEMPLATE_BYTES_MAX: usize = 1 << 20;
/// The most bytes that a template renders to.
pub const RENDERED_BYTES_MAX: usize = 16 << 20;
/// Steps of the template engine: a loop without end is ended.
const FUEL: u64 = 10_000_000;

/// Why a template does not render.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct TemplateError {
    /// Line of the template, from 1.
    pub line: Option<usize>,
    /// What is wrong.
    pub message: String,
}

/// What a template sees: the variables of the configuration at the top, and `facts`.
#[derive(Serialize)]
struct Context<'a> {
    facts: &'a Facts,
    node: &'a str,
    configuration: &'a str,
    release: u64,
    #[serde(flatten)]
    vars: &'a std::collections::BTreeMap<String, serde_json::Value>,
}

/// Whom a template is rendered for.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Its facts.
    pub facts: &'a Facts,
    /// Its id.
    pub node: &'a str,
    /// Name of the configuration.
    pub configuration: &'a str,
    /// Number of the release.
    pub release: u64,
}

/// Whether it is a template at all. Names are looked up when it is rendered.
pub fn check(text: &str) -> Result<(), TemplateError> {
    environment(text).map(|_| ())
}

/// Renders a template. The last line's end is kept.
pub fn render(text: &str, settings: &Settings, subject: &Subject<'_>) -> Result<String, TemplateError> {
    let environment = environment(text)?;
    let template = environment.get_template(NAME).map_err(|error| explain(&error))?;
    let context = Context {
        facts: subject.facts,
        node: subject.node,
        configuration: subject.configuration,
        release: subject.release,
        vars: &settings.vars,
    };
    let rendered = template.render(Serde(context)).map_err(|error| explain(&error))?;
    if rendered.len() > RENDERED_BYTES_MAX {
        return Err(TemplateError {
            line: None,
            message: format!("it renders to {} bytes, more than {RENDERED_BYTES_MAX}", rendered.len()),
        });
    }
    Ok(rendered)
}

const NAME: &str = "template";

fn environment(text: &str) -> Result<Environment<'_>, TemplateError> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build();
    environment.set_syntax(syntax.map_err(|error| explain(&error))?);
    environment.set_fuel(Some(FUEL));
    // Nothing is escaped: it is no HTML.
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.add_template(NAME, text).map_err(|error| explain(&error))?;
    Ok(environment)
}

fn explain(error: &minijinja::Error) -> TemplateError {
    let what = match error.kind() {
        ErrorKind::UndefinedError => {
            "a name in it is not defined; what is: each name in [vars], by itself, and facts, node, configuration, release"
                .to_owned()
        }
        ErrorKind::OutOfFuel => "it does not come to an end".to_owned(),
        kind => kind.to_string(),
    };
    let message = match error.detail() {
        Some(detail) => format!("{what}: {detail}"),
        None => what,
    };
    TemplateError {
        line: error.line(),
        message: match error.line() {
            Some(line) => format!("line {line}: {message}"),
            None => message,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Fact;

    fn rendered(text: &str) -> Result<String, TemplateError> {
        let mut facts = Facts::default();
        facts.set("memory_mb", Fact::Number(4_096));
        facts.set("hostname", Fact::Text("edge-3".into()));
        let mut settings = Settings::default();
        settings.vars.insert("names".into(), serde_json::json!(["a", "b"]));
        settings.vars.insert("limit".into(), serde_json::json!({"soft": 10}));
        let subject = Subject {
            facts: &facts,
            node: "0000000000000001",
            configuration: "web",
            release: 3,
        };
        render(text, &settings, &subject)
    }

    #[test]
    fn variables_and_facts_are_rendered_and_nothing_is_escaped() {
        assert_eq!(
            rendered(
                "{{ facts.hostname }} <{{ facts.memory_mb // 2 }}> {{ node }} {{ configuration }}@{{ release }}\n"
            )
            .unwrap(),
            "edge-3 <2048> 0000000000000001 web@3\n"
        );
        assert_eq!(
            rendered("{% for name in names %}{{ name }}={{ limit.soft }};{% endfor %}").unwrap(),
            "a=10;b=10;"
        );
    }

    #[test]
    fn what_is_not_defined_is_an_error_with_its_line() {
        let error = rendered("a\n{{ facts.hostnmae }}\n").unwrap_err();
        assert_eq!(error.line, Some(2), "{error}");
        assert!(error.message.contains("not defined"), "{error}");
        assert!(rendered("{{ nothing }}").is_err());
    }

    #[test]
    fn what_is_no_template_is_found_without_rendering() {
        let error = check("a\nb {{ x\n").unwrap_err();
        assert!(error.line.is_some(), "{error}");
        assert!(check("{{ x }}").is_ok());
        assert!(
            check("{% include '/etc/passwd' %}").is_err(),
            "there are no other files"
        );
    }

    #[test]
    fn a_template_comes_to_an_end() {
        let error =
            rendered("{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}").unwrap_err();
        assert!(error.message.contains("end"), "{error}");
    }
}
