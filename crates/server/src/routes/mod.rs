//! The handlers, and the table that says who may call them.

mod assignments;
mod chunks;
mod content;
mod head;
mod join;
mod nodes;
mod operators;
mod releases;
mod reports;
mod status;
mod trust;
mod upkeep;

use axum::Json;
use axum::http::Method;
use potluck_model::Digest;
use potluck_model::api::{
    AssignRequest, AssignmentInfo, CHUNKS_PER_REQUEST_MAX, Configuration, Events, GcReport, GcRequest, HaltRequest,
    Head, JoinRequest, Labels, NodeEvents, NodeInfo, OnlineKeys, OperatorInfo, OperatorRequest, Presence,
    PublishRequest, Release, RenewAnswer, RenewRequest, RevokeAnswer, RevokeRequest, Status, TRUST_CHANGE_BYTES_MAX,
    TokenAnswer, TokenRequest, TrustAnswer, TrustChange, TrustInfo, UPLOAD_BYTES_MAX,
};
use potluck_model::audit::AuditLog;

use crate::table::{Route, Who, openapi};

/// The most bytes of a report: lines of output, escaped.
const REPORT_BYTES_MAX: usize = 16 << 20;
const DIGESTS_BYTES_MAX: usize = CHUNKS_PER_REQUEST_MAX * Digest::BYTES;
const DIGESTS: &str = "digests, 32 bytes each, one after another, at most 8192";

/// The table of routes.
pub(crate) fn all() -> Vec<Route> {
    let get = Method::GET;
    let post = Method::POST;
    let put = Method::PUT;
    let delete = Method::DELETE;
    let mut routes = vec![
        // For everybody.
        Route::new(
            get.clone(),
            "/v1/health",
            Who::Open,
            "Whether the server works.",
            status::health,
        )
        .answers::<status::Health>(),
        Route::new(
            post.clone(),
            "/v1/join",
            Who::Open,
            "Admits a node or an operator that has a token.",
            join::join,
        )
        .takes::<JoinRequest>()
        .answers::<join::Joined>(),
        // For nodes.
        Route::new(
            put.clone(),
            "/v1/node/presence",
            Who::Node,
            "Says where this node's peer port is.",
            reports::presence,
        )
        .takes::<Presence>(),
        Route::new(
            get.clone(),
            "/v1/node/head",
            Who::Node,
            "What this node is assigned, and what it needs to know of the fleet.",
            head::head,
        )
        .query(&[
            ("cursor", true, "of the answer before; 0 or absent: answer at once"),
            (
                "revocations",
                true,
                "number of the list of revoked nodes that the node has; 0 or absent: none",
            ),
            ("issued", true, "when that list was signed, in seconds since 1970"),
            ("instance", true, "a number that this start of the agent drew by lot"),
            (
                "wait",
                true,
                "seconds to wait, at most 55, for something that differs from the answer before",
            ),
        ])
        .answers::<Head>(),
        Route::new(
            post.clone(),
            "/v1/node/events",
            Who::Node,
            "Reports events; they are durable once this is answered.",
            reports::events,
        )
        .takes::<Events>()
        .body_max(REPORT_BYTES_MAX),
        Route::new(
            post.clone(),
            "/v1/node/chunks",
            Who::Node,
            "Chunks, many at once.",
            chunks::download,
        )
        .takes_bytes(DIGESTS)
        .body_max(DIGESTS_BYTES_MAX)
        .answers_bytes(
            "for each digest in order: u32 big-endian length and the bytes, or 0xffffffff if it is not there",
        ),
        Route::new(
            post.clone(),
            "/v1/node/renew",
            Who::NodeToRenew,
            "A new certificate for this node, also if the one that it has expired.",
            join::renew,
        )
        .takes::<RenewRequest>()
        .answers::<RenewAnswer>(),
        // For nodes and operators.
        Route::new(
            get.clone(),
            "/v1/content/{digest}",
            Who::NodeOrOperator,
            "A file, list, chunk list or chunk by its digest; takes Range and HEAD.",
            content::content,
        )
        .answers_bytes("the content, or the range of it that was asked for (206)"),
        // For operators.
        Route::new(
            post.clone(),
            "/v1/chunks/missing",
            Who::Operator,
            "Which chunks have not been uploaded.",
            chunks::missing,
        )
        .takes_bytes(DIGESTS)
        .body_max(DIGESTS_BYTES_MAX)
        .answers_bytes("one byte for each digest in order: 1 if it is missing, else 0")
        .unaudited(),
        Route::new(
            post.clone(),
            "/v1/chunks",
            Who::Operator,
            "Uploads chunks: all of them are kept, or none.",
            chunks::upload,
        )
        .takes_bytes("for each chunk: u32 big-endian length, 32 bytes digest, the bytes")
        .body_max(UPLOAD_BYTES_MAX)
        .unaudited(),
        Route::new(
            post.clone(),
            "/v1/configurations/{name}/releases",
            Who::Operator,
            "Makes a release of a list that has been uploaded with all it names.",
            releases::publish,
        )
        .takes::<PublishRequest>()
        .answers::<Release>(),
        Route::new(
            get.clone(),
            "/v1/configurations",
            Who::Operator,
            "All configurations.",
            releases::configurations,
        )
        .answers::<Vec<Configuration>>(),
        Route::new(
            get.clone(),
            "/v1/configurations/{name}",
            Who::Operator,
            "A configuration with its releases, newest first.",
            releases::configuration,
        )
        .answers::<Configuration>(),
        Route::new(
            get.clone(),
            "/v1/trust",
            Who::Operator,
            "What publishers have signed, and what waits for signatures.",
            trust::info,
        )
        .answers::<TrustInfo>(),
        Route::new(
            put.clone(),
            "/v1/trust",
            Who::Operator,
            "Puts in force what publishers have signed, or keeps it until enough have.",
            trust::change,
        )
        .takes::<TrustChange>()
        .body_max(TRUST_CHANGE_BYTES_MAX)
        .answers::<TrustAnswer>(),
        Route::new(
            delete.clone(),
            "/v1/trust",
            Who::Operator,
            "Drops the change that waits for signatures.",
            trust::drop_waiting,
        ),
        Route::new(
            post.clone(),
            "/v1/trust/online",
            Who::Operator,
            "Makes fresh keys for snapshot and timestamp, for the next root to name.",
            trust::online,
        )
        .answers::<OnlineKeys>(),
        Route::new(
            post.clone(),
            "/v1/assignments",
            Who::Operator,
            "Assigns a configuration; an assignment with the same target is replaced.",
            assignments::assign,
        )
        .takes::<AssignRequest>()
        .answers::<AssignmentInfo>(),
        Route::new(
            get.clone(),
            "/v1/assignments",
            Who::Operator,
            "Assignments in force.",
            assignments::list,
        )
        .answers::<Vec<AssignmentInfo>>(),
        Route::new(
            delete.clone(),
            "/v1/assignments",
            Who::Operator,
            "Takes all assignments of a configuration back.",
            assignments::unassign_configuration,
        )
        .query(&[("configuration", false, "its name")]),
        Route::new(
            delete.clone(),
            "/v1/assignments/{id}",
            Who::Operator,
            "Takes an assignment back.",
            assignments::unassign,
        ),
        Route::new(
            post.clone(),
            "/v1/halt",
            Who::Operator,
            "Keeps steps from starting, fleet-wide, or lets them start again.",
            assignments::halt,
        )
        .takes::<HaltRequest>(),
        Route::new(
            post.clone(),
            "/v1/gc",
            Who::Operator,
            "Removes releases and chunks that nobody needs.",
            upkeep::gc,
        )
        .takes::<GcRequest>()
        .answers::<GcReport>(),
        Route::new(
            post.clone(),
            "/v1/tokens",
            Who::Operator,
            "Makes a join string.",
            join::token,
        )
        .takes::<TokenRequest>()
        .answers::<TokenAnswer>(),
        Route::new(get.clone(), "/v1/nodes", Who::Operator, "All nodes.", nodes::list).answers::<Vec<NodeInfo>>(),
        Route::new(
            get.clone(),
            "/v1/nodes/{node}",
            Who::Operator,
            "A node, by id, by an unambiguous beginning of it, or by host name.",
            nodes::node,
        )
        .answers::<NodeInfo>(),
        Route::new(
            get.clone(),
            "/v1/nodes/{node}/events",
            Who::Operator,
            "A node's events, in the order in which they came.",
            nodes::events,
        )
        .query(&[
            ("after", true, "`next` of the answer before"),
            ("list", false, "only events of the release with this list"),
            ("limit", true, "at most so many events; 1000 if absent, 10000 at most"),
        ])
        .answers::<NodeEvents>(),
        Route::new(
            put,
            "/v1/nodes/{node}/labels",
            Who::Operator,
            "Sets a node's labels, all of them.",
            nodes::labels,
        )
        .takes::<Labels>()
        .answers::<NodeInfo>(),
        Route::new(
            post.clone(),
            "/v1/nodes/{node}/approve",
            Who::Operator,
            "Admits a node that waits for it.",
            nodes::approve,
        )
        .answers::<NodeInfo>(),
        Route::new(
            post.clone(),
            "/v1/revocations",
            Who::Operator,
            "Puts nodes out of the fleet for good.",
            nodes::revoke,
        )
        .takes::<RevokeRequest>()
        .answers::<RevokeAnswer>(),
        Route::new(
            post.clone(),
            "/v1/operators",
            Who::Operator,
            "Makes a join string for an operator.",
            operators::add,
        )
        .takes::<OperatorRequest>()
        .answers::<TokenAnswer>(),
        Route::new(
            get.clone(),
            "/v1/operators",
            Who::Operator,
            "All operators that there are or were.",
            operators::list,
        )
        .answers::<Vec<OperatorInfo>>(),
        Route::new(
            delete.clone(),
            "/v1/operators/{name}",
            Who::Operator,
            "Takes an operator's rights away.",
            operators::remove,
        ),
        Route::new(
            get.clone(),
            "/v1/audit",
            Who::Operator,
            "What operators did, oldest first.",
            operators::audit,
        )
        .query(&[
            ("after", true, "only entries with numbers above this one"),
            ("limit", true, "at most so many entries; 1000 if absent, and at most"),
        ])
        .answers::<AuditLog>(),
        Route::new(
            get.clone(),
            "/v1/status",
            Who::Operator,
            "The fleet at a glance.",
            status::status,
        )
        .answers::<Status>(),
    ];
    let summary = "This API, as an OpenAPI document.";
    let path = "/v1/openapi.json";
    // The document tells of its own route as well.
    let placeholder = || {
        Route::new(Method::GET, path, Who::NodeOrOperator, summary, async || Json(())).answers::<serde_json::Value>()
    };
    routes.push(placeholder());
    let document = openapi(&routes);
    routes.pop();
    let handler = async move || Json(document.clone());
    routes.push(Route::new(get, path, Who::NodeOrOperator, summary, handler).answers::<serde_json::Value>());
    routes
}
