//! Which operation a method and a path name.
//!
//! *Invariants*: one table; segments are split before they are decoded, so that an encoded slash
//! belongs to an id; nothing is normalised.
//!
//! *Not here*: what an operation does (the neighbours of this file).

use std::borrow::Cow;

use http::Method;

use super::uri::decoded;
use crate::auth::Role;
use crate::backend::Demand;
use crate::error::{Checked, Fault, Problem};

/// Declares operations: variant, name in metrics and OpenAPI, method, path, query parameters,
/// role of the key.
macro_rules! operations {
    ($($operation:ident $name:literal $method:ident $path:literal [$($parameter:literal)*] $role:ident)*) => {
        /// Everything that a client may ask for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Operation { $(#[doc = $path] $operation,)* }

        /// The table of operations, in the order of [`Operation`].
        pub const ROUTES: &[Route] = &[$(Route {
            operation: Operation::$operation,
            name: $name,
            method: Method::$method,
            path: $path,
            parameter: braces($path),
            query: &[$($parameter,)*],
            role: Role::$role,
        },)*];
    };
}

operations! {
    StoreMemory "store_memory" POST "/api/v1/memories" ["space" "wait"] Write
    ListMemories "list_memories" GET "/api/v1/memories" ["space" "limit" "cursor" "filter" "with" "include_merged"] Read
    StoreBatch "store_batch" POST "/api/v1/memories/batch" ["space" "wait"] Write
    PutMemory "put_memory" PUT "/api/v1/memories/{id}" ["space" "wait"] Write
    GetMemory "get_memory" GET "/api/v1/memories/{id}" ["space" "with" "include_merged"] Read
    PatchMemory "patch_memory" PATCH "/api/v1/memories/{id}" ["space" "wait"] Write
    DeleteMemory "delete_memory" DELETE "/api/v1/memories/{id}" ["space" "wait"] Write
    GetLinks "get_links" GET "/api/v1/memories/{id}/links" ["space" "direction" "kind"] Read
    Count "count" POST "/api/v1/count" ["space"] Read
    PutLinks "put_links" POST "/api/v1/links" ["space" "wait"] Write
    DeleteLinks "delete_links" DELETE "/api/v1/links" ["space" "wait"] Write
    Recall "recall" POST "/api/v1/recall" ["space"] Read
    RecallBatch "recall_batch" POST "/api/v1/recall/batch" ["space"] Read
    Reinforce "reinforce" POST "/api/v1/reinforce" ["space" "wait"] Write
    Forget "forget" POST "/api/v1/forget" ["space" "wait"] Write
    Demote "demote" POST "/api/v1/demote" ["space"] Write
    StartConsolidation "start_consolidation" POST "/api/v1/consolidations" ["space"] Admin
    ListConsolidations "list_consolidations" GET "/api/v1/consolidations" ["space"] Read
    GetConsolidation "get_consolidation" GET "/api/v1/consolidations/{run}" ["space"] Read
    UndoConsolidation "undo_consolidation" POST "/api/v1/consolidations/{run}/undo" ["space"] Admin
    ListSpaces "list_spaces" GET "/api/v1/spaces" [] Read
    GetSpace "get_space" GET "/api/v1/spaces/{space}" [] Read
    PutSpace "put_space" PUT "/api/v1/spaces/{space}" [] Admin
    DeleteSpace "delete_space" DELETE "/api/v1/spaces/{space}" [] Admin
    StartSnapshot "start_snapshot" POST "/api/v1/snapshots" [] Admin
    ListSnapshots "list_snapshots" GET "/api/v1/snapshots" [] Read
    GetSnapshot "get_snapshot" GET "/api/v1/snapshots/{name}" [] Read
    PutSnapshot "put_snapshot" POST "/api/v1/snapshots/{name}" [] Admin
    DeleteSnapshot "delete_snapshot" DELETE "/api/v1/snapshots/{name}" [] Admin
    StartCompaction "start_compaction" POST "/api/v1/compaction" [] Admin
    GetCompaction "get_compaction" GET "/api/v1/compaction" [] Read
    Stats "stats" GET "/api/v1/stats" [] Read
    Topology "topology" GET "/api/v1/topology" [] Read
    Live "live" GET "/health/live" [] Open
    Ready "ready" GET "/health/ready" [] Open
    Startup "startup" GET "/health/startup" [] Open
    LiveAlias "live" GET "/livez" [] Open
    ReadyAlias "ready" GET "/readyz" [] Open
    StartupAlias "startup" GET "/startupz" [] Open
    Metrics "metrics" GET "/metrics" [] Open
    OpenApi "openapi" GET "/openapi.json" [] Open
    Console "console" GET "/" [] Open
}

/// One row of the table.
#[derive(Clone, Debug)]
pub struct Route {
    /// The operation.
    pub operation: Operation,
    /// Its name in metrics and in OpenAPI.
    pub name: &'static str,
    /// Its method; HEAD goes wherever GET goes.
    pub method: Method,
    /// Its path, with at most one parameter in braces.
    pub path: &'static str,
    /// Where the parameter stands in it: bytes before and after the braces.
    parameter: Option<(usize, usize)>,
    /// The parameters that its query may hold.
    pub query: &'static [&'static str],
    /// What a key must allow for it.
    pub role: Role,
}

impl Operation {
    /// Its row.
    pub fn route(self) -> &'static Route {
        &ROUTES[self as usize]
    }

    /// What it asks for, as admission tells requests apart.
    pub fn demand(self) -> Demand {
        let recalls = matches!(self, Self::Recall | Self::RecallBatch);
        let stores = matches!(self, Self::StoreMemory | Self::StoreBatch | Self::PutMemory);
        let changes = matches!(self, Self::PatchMemory | Self::PutLinks);
        match (recalls, stores || changes) {
            (true, _) => Demand::Recall,
            (false, true) => Demand::Growth,
            (false, false) => Demand::Other,
        }
    }

    /// It is answered from memories, and so not before they are there.
    pub fn asks_shards(self) -> bool {
        self.route().role != Role::Open && self != Self::Topology
    }
}

/// An operation and the parameter of its path, decoded.
#[derive(Debug, PartialEq)]
pub struct Matched<'a> {
    /// The operation.
    pub operation: Operation,
    /// The parameter; empty where the path has none.
    pub parameter: Cow<'a, str>,
}

/// Finds the operation.
///
/// # Errors
/// Where there is nothing at the path, or nothing with this method.
pub fn find<'a>(method: &Method, path: &'a str) -> Checked<Matched<'a>> {
    let wanted = if method == Method::HEAD { &Method::GET } else { method };
    let with_method = ROUTES.iter().filter(|route| route.method == *wanted);
    let mut fitting =
        with_method.filter_map(|route| Some((route.operation, matches(route, path)?)));
    let Some((operation, raw)) = fitting.next() else {
        return Err(refusal(method, path));
    };
    let parameter = decoded(raw)
        .ok_or_else(|| Problem::new(Fault::InvalidPath, "the path is not percent-encoded UTF-8"))?;
    Ok(Matched { operation, parameter })
}

/// The methods that a path takes, for `Allow`; empty where there is nothing.
pub fn allowed(path: &str) -> String {
    let mut methods: Vec<&str> = Vec::new();
    // `/memories/batch` is also the path of a memory of that id; its methods are not advertised.
    let literal = ROUTES.iter().any(|route| route.path == path);
    let fits = |route: &&Route| match literal {
        true => route.path == path,
        false => matches(route, path).is_some(),
    };
    for route in ROUTES.iter().filter(fits) {
        methods.push(route.method.as_str());
        if route.method == Method::GET {
            methods.push("HEAD");
        }
    }
    if !methods.is_empty() {
        methods.push("OPTIONS");
    }
    methods.join(", ")
}

fn refusal(method: &Method, path: &str) -> Box<Problem> {
    let allow = allowed(path);
    if allow.is_empty() {
        return Problem::new(Fault::PathNotFound, "there is nothing at this path");
    }
    let detail = format!("{method} is not possible here; possible are {allow}");
    let mut problem = Problem::new(Fault::MethodNotAllowed, detail);
    problem.allow = Some(allow);
    problem
}

/// The raw parameter, where the path fits the route.
fn matches<'a>(route: &Route, path: &'a str) -> Option<&'a str> {
    let Some((before, after)) = route.parameter else {
        return (route.path == path).then_some("");
    };
    let raw = path.strip_prefix(&route.path[..before])?;
    let raw = raw.strip_suffix(&route.path[route.path.len() - after..])?;
    (!raw.is_empty() && !raw.contains('/')).then_some(raw)
}

/// Bytes before and after the braces of a path, known when this is compiled.
const fn braces(path: &str) -> Option<(usize, usize)> {
    let bytes = path.as_bytes();
    let (mut at, mut before) = (0, None);
    while at < bytes.len() {
        match (bytes[at], before) {
            (b'{', _) => before = Some(at),
            (b'}', Some(before)) => return Some((before, bytes.len() - at - 1)),
            _ => {}
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_has_its_own_row() {
        for (index, route) in ROUTES.iter().enumerate() {
            assert_eq!(route.operation as usize, index);
            assert_eq!(find(&route.method, route.path).unwrap().operation, route.operation);
        }
    }

    #[test]
    fn an_encoded_slash_belongs_to_the_id() {
        let matched = find(&Method::GET, "/api/v1/memories/a%2Fb").unwrap();
        assert_eq!((matched.operation, &*matched.parameter), (Operation::GetMemory, "a/b"));
        let matched = find(&Method::GET, "/api/v1/memories/..").unwrap();
        assert_eq!((matched.operation, &*matched.parameter), (Operation::GetMemory, ".."));
        assert!(find(&Method::GET, "/api/v1/memories/../../../metrics").is_err());
    }
}
