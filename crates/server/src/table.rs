//! The one table of routes: the router, the guard and the OpenAPI document are all made from it, so that no route is
//! undocumented or unguarded.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::handler::Handler;
use axum::http::Method;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{MethodFilter, MethodRouter, on};
use potluck_model::api::{ErrorKind, Standing};
use potluck_model::{Digest, UnixSeconds};
use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::app::App;
use crate::audit;
use crate::caller::{Caller, Role};
use crate::refusal::Refusal;
use crate::request::{BodyMax, content_length, too_large};

/// The most bytes of a body, where a route does not say otherwise.
const BODY_BYTES_MAX: usize = 64 << 10;

/// Who may call a route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Who {
    /// Anybody who can reach the server.
    Open,
    /// Nodes that were admitted.
    Node,
    /// The same, also with a certificate that has expired.
    NodeToRenew,
    /// Operators.
    Operator,
    /// Both.
    NodeOrOperator,
}

impl Who {
    /// Whether `role` may.
    pub(crate) fn admits(self, role: &Role) -> bool {
        match (self, role) {
            (Self::Open, _)
            | (Self::Node | Self::NodeToRenew | Self::NodeOrOperator, Role::Node(_))
            | (Self::Operator | Self::NodeOrOperator, Role::Operator(_)) => true,
            (_, _) => false,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Open => "anybody",
            Self::Node | Self::NodeToRenew => "nodes",
            Self::Operator => "operators",
            Self::NodeOrOperator => "nodes and operators",
        }
    }
}

/// What a request or an answer carries.
#[derive(Clone, Copy)]
pub(crate) enum Payload {
    /// Nothing.
    Nothing,
    /// JSON of this schema.
    Json(fn(&mut SchemaGenerator) -> Schema),
    /// Bytes, described in words.
    Bytes(&'static str),
}

/// A parameter in the query: name, whether it is a number, and what it means.
pub(crate) type Parameter = (&'static str, bool, &'static str);

/// One line of the table.
pub(crate) struct Route {
    /// Its method.
    pub(crate) method: Method,
    /// Its path; what is variable stands in braces.
    pub(crate) path: &'static str,
    /// Who may call it.
    pub(crate) who: Who,
    summary: &'static str,
    query: &'static [Parameter],
    takes: Payload,
    answers: Payload,
    body_max: usize,
    /// Whether calls of operators are written down before they are carried out.
    audited: bool,
    service: MethodRouter<Arc<App>>,
}

impl Route {
    /// A route without query, body and content of the answer.
    pub(crate) fn new<H, T>(method: Method, path: &'static str, who: Who, summary: &'static str, handler: H) -> Self
    where
        H: Handler<T, Arc<App>>,
        T: 'static,
    {
        let audited = who == Who::Operator && method != Method::GET;
        let filter = MethodFilter::try_from(method.clone()).expect("the table has methods of HTTP only");
        Self {
            method,
            path,
            who,
            summary,
            query: &[],
            takes: Payload::Nothing,
            answers: Payload::Nothing,
            body_max: BODY_BYTES_MAX,
            audited,
            service: on(filter, handler),
        }
    }

    /// With parameters in the query.
    pub(crate) fn query(mut self, query: &'static [Parameter]) -> Self {
        self.query = query;
        self
    }

    /// With JSON as body of the request.
    pub(crate) fn takes<T: JsonSchema>(mut self) -> Self {
        self.takes = Payload::Json(SchemaGenerator::subschema_for::<T>);
        self
    }

    /// With bytes as body of the request.
    pub(crate) fn takes_bytes(mut self, what: &'static str) -> Self {
        self.takes = Payload::Bytes(what);
        self
    }

    /// With at most so many bytes as body of the request.
    pub(crate) fn body_max(mut self, bytes: usize) -> Self {
        self.body_max = bytes;
        self
    }

    /// Calls are not written down: nothing follows from them by itself.
    pub(crate) fn unaudited(mut self) -> Self {
        self.audited = false;
        self
    }

    /// With JSON in the answer.
    pub(crate) fn answers<T: JsonSchema>(mut self) -> Self {
        self.answers = Payload::Json(SchemaGenerator::subschema_for::<T>);
        self
    }

    /// With bytes in the answer.
    pub(crate) fn answers_bytes(mut self, what: &'static str) -> Self {
        self.answers = Payload::Bytes(what);
        self
    }
}

/// The router that serves the table.
pub(crate) fn router(routes: Vec<Route>, app: Arc<App>) -> Router {
    let mut router = Router::new();
    for route in routes {
        let guard = Guard {
            app: app.clone(),
            who: route.who,
            body_max: route.body_max,
            audited: route.audited,
        };
        let service = route.service.layer(middleware::from_fn_with_state(guard, admit));
        router = router.route(route.path, service);
    }
    router
        .fallback(|| async { Refusal::not_found("there is no such route; GET /v1/openapi.json lists all") })
        .method_not_allowed_fallback(|| async {
            Refusal::bad("this route does not know this method; GET /v1/openapi.json lists all")
        })
        .with_state(app)
}

#[derive(Clone)]
struct Guard {
    app: Arc<App>,
    who: Who,
    body_max: usize,
    audited: bool,
}

/// Lets a request through to its handler if its caller may call it. Without a word about what is behind, if not.
async fn admit(State(guard): State<Guard>, mut request: Request, next: Next) -> Result<Response, Refusal> {
    let caller = request.extensions().get::<Caller>().cloned();
    let role = caller.as_ref().map_or(&Role::Anonymous, |caller| &caller.role);
    if !guard.who.admits(role) {
        let message = match role {
            Role::Anonymous => format!("this is for {} with a certificate of this fleet", guard.who.name()),
            Role::Node(_) | Role::Operator(_) => format!("this is for {}", guard.who.name()),
        };
        return Err(Refusal::new(ErrorKind::Forbidden, message));
    }
    if guard.who != Who::Open
        && let Some(caller) = &caller
    {
        check_standing(&guard, caller).await?;
    }
    if content_length(request.headers()).is_some_and(|length| length > guard.body_max as u64) {
        return Err(too_large(guard.body_max));
    }
    request.extensions_mut().insert(BodyMax(guard.body_max));
    match caller.map(|caller| caller.role) {
        Some(Role::Operator(name)) if guard.audited => audit::run(&guard.app, name, request, next).await,
        _ => Ok(next.run(request).await),
    }
}

/// Checks that who calls still belongs to the fleet, whatever its certificate says.
async fn check_standing(guard: &Guard, caller: &Caller) -> Result<(), Refusal> {
    if guard.who != Who::NodeToRenew && caller.expired(UnixSeconds::now()) {
        let remedy = match caller.role {
            Role::Node(_) => "a node renews it by itself",
            Role::Operator(_) | Role::Anonymous => "the operator needs a new credential",
        };
        return Err(Refusal::new(
            ErrorKind::Expired,
            format!("the certificate has expired: {remedy}; is this machine's clock right?"),
        ));
    }
    let Some(presented) = caller.presented else {
        return Ok(());
    };
    let node = match &caller.role {
        Role::Node(node) => *node,
        Role::Operator(name) => return check_operator(guard, name, presented.key).await,
        Role::Anonymous => return Ok(()),
    };
    let known = guard
        .app
        .blocking(move |app| Ok(app.catalogue.standing(node)?))
        .await?
        .filter(|(key, _)| *key == presented.key);
    match known {
        Some((_, Standing::Admitted)) => {}
        Some((_, Standing::Pending)) => return Err(Refusal::pending(node, &presented.key)),
        Some((_, Standing::Revoked)) => return Err(Refusal::revoked(node)),
        None => {
            let message = format!("node {node} is not known to this server: join it again with a new join string");
            return Err(Refusal::new(ErrorKind::Forbidden, message));
        }
    }
    guard.app.saw(node);
    Ok(())
}

async fn check_operator(guard: &Guard, name: &str, key: Digest) -> Result<(), Refusal> {
    let operators = guard.app.blocking(|app| Ok(app.catalogue.operators()?)).await?;
    let known = operators.iter().find(|operator| operator.name == name);
    if known.is_some_and(|operator| operator.removed.is_none() && operator.key == key) {
        return Ok(());
    }
    let why = match known {
        Some(operator) if operator.removed.is_some() => "was removed",
        Some(_) => "has got another credential since",
        None => "is not known to this server",
    };
    Err(Refusal::new(
        ErrorKind::Forbidden,
        format!(
            "operator {name} {why}: another operator can give a new join string with `potluck operator add {name}`"
        ),
    ))
}

/// The OpenAPI 3.1 document of the table.
pub(crate) fn openapi(routes: &[Route]) -> serde_json::Value {
    use serde_json::{Map, Value, json};
    let mut settings = schemars::generate::SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    settings.meta_schema = None;
    let mut generator = settings.into_generator();
    let mut paths = Map::new();
    let error = generator.subschema_for::<potluck_model::api::ApiError>();
    for route in routes {
        let mut content = |payload: Payload| match payload {
            Payload::Nothing => None,
            Payload::Json(schema) => Some(json!({"application/json": {"schema": schema(&mut generator)}})),
            Payload::Bytes(what) => Some(json!({"application/octet-stream": {
                "schema": {"type": "string", "format": "binary", "description": what}
            }})),
        };
        let mut parameters: Vec<Value> = route
            .path
            .split('/')
            .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
            .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
            .collect();
        parameters.extend(route.query.iter().map(|(name, number, what)| {
            let kind = if *number { "integer" } else { "string" };
            json!({"name": name, "in": "query", "description": what, "schema": {"type": kind}})
        }));
        let success = match content(route.answers) {
            Some(content) => ("200", json!({"description": "Done.", "content": content})),
            None => ("204", json!({"description": "Done."})),
        };
        let mut operation = json!({
            "summary": route.summary,
            "description": format!("For {}.", route.who.name()),
            "parameters": parameters,
            "responses": {
                success.0: success.1,
                "default": {
                    "description": "Not done, and why.",
                    "content": {"application/json": {"schema": error}},
                },
            },
            "security": if route.who == Who::Open { json!([]) } else { json!([{"certificate": []}]) },
        });
        if let Some(content) = content(route.takes) {
            operation["requestBody"] = json!({"required": true, "content": content});
        }
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.as_str().to_lowercase()] = operation;
    }
    json!({
        "openapi": "3.1.0",
        "info": {"title": "Potluck management server", "version": env!("CARGO_PKG_VERSION")},
        "paths": paths,
        "components": {
            "schemas": generator.take_definitions(true),
            "securitySchemes": {"certificate": {
                "type": "mutualTLS",
                "description": "A certificate of the fleet's CA; its name says whether it is a node's or an operator's.",
            }},
        },
    })
}
