//! The REST API's grammar: from method, path, query and body to a [`Request`].
//!
//! Pure, so that any path can be tried without HTTP. Marathon's clients are tolerated: doubled
//! and trailing slashes, booleans in any case, bodies without a content type, unknown query
//! parameters.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::answer::{Answer, Problems};
use super::id::AppId;
use super::json::{self, kind};

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// `GET /v2/apps`
    ListApps {
        /// Part of the command line.
        cmd: Option<String>,
        /// Part of the id.
        id: Option<String>,
        /// A label selector.
        label: Option<String>,
        /// What to show beside the definitions.
        embed: Embed,
    },
    /// `GET /v2/apps/{group}/*`
    GroupApps {
        /// The group's path.
        group: String,
        /// What to show beside the definitions.
        embed: Embed,
    },
    /// `POST /v2/apps`
    CreateApp {
        /// The definition.
        body: Value,
        /// Override locks.
        force: bool,
    },
    /// `PUT` or `PATCH /v2/apps`
    PutApps {
        /// Definitions.
        body: Value,
        /// Override locks.
        force: bool,
        /// Keep what is not given.
        partial: bool,
        /// Unknown apps are an error.
        must_exist: bool,
    },
    /// `GET /v2/apps/{id}`
    GetApp {
        /// Which app.
        id: String,
    },
    /// `PUT` or `PATCH /v2/apps/{id}`
    PutApp {
        /// Which app.
        id: String,
        /// The definition.
        body: Value,
        /// Override locks.
        force: bool,
        /// Keep what is not given.
        partial: bool,
        /// An unknown app is an error.
        must_exist: bool,
    },
    /// `DELETE /v2/apps/{id}`
    DeleteApp {
        /// Which app.
        id: String,
        /// Override locks.
        force: bool,
    },
    /// `POST /v2/apps/{id}/restart`
    Restart {
        /// Which app.
        id: String,
        /// Override locks.
        force: bool,
    },
    /// `GET /v2/apps/{id}/tasks`
    AppTasks {
        /// An app, or a group with `/*`.
        id: String,
    },
    /// `DELETE /v2/apps/{id}/tasks`
    KillAppTasks {
        /// Which app.
        id: String,
        /// Only those on this host.
        host: Option<String>,
        /// How.
        how: KillHow,
    },
    /// `DELETE /v2/apps/{id}/tasks/{task}`
    KillTask {
        /// Which app.
        id: String,
        /// Which task or instance.
        task: String,
        /// How.
        how: KillHow,
    },
    /// `GET /v2/apps/{id}/versions`
    Versions {
        /// Which app.
        id: String,
    },
    /// `GET /v2/apps/{id}/versions/{version}`
    GetVersion {
        /// Which app.
        id: String,
        /// Which version.
        version: String,
    },
    /// `GET /v2/apps/{id}/why`
    Why {
        /// Which app.
        id: String,
    },
    /// `GET /v2/tasks`
    Tasks {
        /// `running`, `staging`; all when empty.
        status: BTreeSet<String>,
    },
    /// `POST /v2/tasks/delete`
    DeleteTasks {
        /// Which tasks or instances.
        ids: Vec<String>,
        /// How.
        how: KillHow,
    },
    /// `GET /v2/deployments`
    Deployments,
    /// `DELETE /v2/deployments/{id}`
    CancelDeployment {
        /// Which.
        id: String,
        /// Leave everything as it stands.
        force: bool,
    },
    /// `GET /v2/queue`
    Queue,
    /// `DELETE /v2/queue/{id}/delay`
    ResetDelay {
        /// Which app.
        id: String,
    },
}

/// How tasks are killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KillHow {
    /// Lower the number of instances.
    pub scale: bool,
    /// Forget the instances, so that new ones replace them.
    pub wipe: bool,
    /// Override locks.
    pub force: bool,
}

/// What to show beside definitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Embed {
    /// Tasks.
    pub tasks: bool,
    /// The latest failure.
    pub last_failure: bool,
}

impl Request {
    /// Whether it changes anything.
    pub fn is_write(&self) -> bool {
        match self {
            Self::CreateApp { .. }
            | Self::PutApps { .. }
            | Self::PutApp { .. }
            | Self::DeleteApp { .. }
            | Self::Restart { .. }
            | Self::KillAppTasks { .. }
            | Self::KillTask { .. }
            | Self::DeleteTasks { .. }
            | Self::CancelDeployment { .. }
            | Self::ResetDelay { .. } => true,
            Self::ListApps { .. }
            | Self::GroupApps { .. }
            | Self::GetApp { .. }
            | Self::AppTasks { .. }
            | Self::Versions { .. }
            | Self::GetVersion { .. }
            | Self::Why { .. }
            | Self::Tasks { .. }
            | Self::Deployments
            | Self::Queue => false,
        }
    }
}

/// A query string, taken apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Takes `a=b&c=d` apart; what is malformed is kept as it stands.
    pub fn parse(text: &str) -> Self {
        let decode = |part: &str| {
            let spaced = part.replace('+', " ");
            percent_decode(&spaced).unwrap_or(spaced)
        };
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(key), decode(value))
                })
                .collect(),
        )
    }

    fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        let pairs = self.0.iter().filter(move |(k, _)| k == key);
        pairs.map(|(_, value)| value.as_str())
    }

    fn get(&self, key: &str) -> Option<String> {
        self.all(key).next().map(str::to_owned)
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool, Answer> {
        match self.all(key).next().map(str::to_ascii_lowercase).as_deref() {
            None => Ok(default),
            Some("true" | "") => Ok(true),
            Some("false") => Ok(false),
            Some(other) => {
                let shown: String = other.chars().take(40).collect();
                Err(Answer::refuse(
                    400,
                    format!("query parameter {key} is {shown:?}; use true or false"),
                ))
            }
        }
    }

    fn embed(&self) -> Embed {
        let mut embed = Embed::default();
        for value in self.all("embed") {
            let name = value.strip_prefix("group.").unwrap_or(value);
            let name = name.strip_prefix("apps.").unwrap_or(name);
            match name.strip_prefix("app.").unwrap_or(name) {
                "tasks" => embed.tasks = true,
                "lastTaskFailure" => embed.last_failure = true,
                "failures" => {
                    embed.tasks = true;
                    embed.last_failure = true;
                }
                _ => {}
            }
        }
        embed
    }

    fn how(&self) -> Result<KillHow, Answer> {
        let how = KillHow {
            scale: self.flag("scale", false)?,
            wipe: self.flag("wipe", false)?,
            force: self.flag("force", false)?,
        };
        if how.scale && how.wipe {
            return Err(Answer::refuse(
                400,
                "You cannot use scale and wipe at the same time.",
            ));
        }
        Ok(how)
    }
}

/// Decodes `%41`; `None` when an escape is broken or the result is no UTF-8.
fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |b: Option<u8>| {
            char::from(b?)
                .to_digit(16)
                .and_then(|d| u8::try_from(d).ok())
        };
        let (high, low) = (digit(rest.next())?, digit(rest.next())?);
        bytes.push(high * 16 + low);
    }
    String::from_utf8(bytes).ok()
}

/// Reads a request below `/v2`.
///
/// # Errors
/// The answer when the path, the method, the query or the body is not understood.
pub fn read(method: &str, path: &str, query: &str, body: &[u8]) -> Result<Request, Answer> {
    let no_route = || {
        let shown: String = path.chars().take(200).collect();
        Answer::refuse(
            404,
            format!("there is nothing at {shown}; see docs/services.md for what is served"),
        )
    };
    let decoded = percent_decode(path).ok_or_else(no_route)?;
    let parts: Vec<&str> = decoded.split('/').filter(|part| !part.is_empty()).collect();
    let query = Query::parse(query);
    let force = || query.flag("force", false);
    let not_allowed = || {
        Answer::refuse(
            405,
            format!("{method} is not possible at {path}; see docs/services.md"),
        )
    };
    let (area, rest) = match parts.as_slice() {
        ["v2", area, rest @ ..] => (*area, rest),
        _ => return Err(no_route()),
    };
    match (area, rest, method) {
        ("apps", [], "GET") => Ok(Request::ListApps {
            cmd: query.get("cmd"),
            id: query.get("id"),
            label: query.get("label"),
            embed: query.embed(),
        }),
        ("apps", [], "POST") => Ok(Request::CreateApp {
            body: json::read(body)?,
            force: force()?,
        }),
        ("apps", [], "PUT" | "PATCH") => Ok(Request::PutApps {
            body: json::read(body)?,
            force: force()?,
            partial: method == "PATCH" || query.flag("partialUpdate", true)?,
            must_exist: method == "PATCH",
        }),
        ("apps", [], _) => Err(not_allowed()),
        ("apps", rest, _) => read_app(method, rest, &query, body)?.ok_or_else(not_allowed),
        ("tasks", [], "GET") => Ok(Request::Tasks {
            status: query
                .all("status")
                .chain(query.all("status[]"))
                .map(str::to_owned)
                .collect(),
        }),
        ("tasks", ["delete"], "POST") => Ok(Request::DeleteTasks {
            ids: read_ids(&json::read(body)?)?,
            how: query.how()?,
        }),
        ("deployments", [], "GET") => Ok(Request::Deployments),
        ("deployments", [id], "DELETE") => Ok(Request::CancelDeployment {
            id: (*id).to_owned(),
            force: force()?,
        }),
        ("queue", [], "GET") => Ok(Request::Queue),
        ("queue", [app @ .., "delay"], "DELETE") if !app.is_empty() => {
            Ok(Request::ResetDelay { id: path_of(app) })
        }
        ("tasks" | "deployments" | "queue", [], _)
        | ("tasks", ["delete"], _)
        | ("deployments", [_], _) => Err(not_allowed()),
        ("groups" | "pods" | "events" | "artifacts" | "plugins" | "eventSubscriptions", _, _) => {
            Err(Answer::refuse(
                404,
                format!("/v2/{area} is not supported yet"),
            ))
        }
        _ => Err(no_route()),
    }
}

fn path_of(parts: &[&str]) -> String {
    format!("/{}", parts.join("/"))
}

/// Requests below `/v2/apps/…`; `None` when the method does not go with the path.
fn read_app(
    method: &str,
    rest: &[&str],
    query: &Query,
    body: &[u8],
) -> Result<Option<Request>, Answer> {
    let force = || query.flag("force", false);
    Ok(Some(match (method, rest) {
        ("GET", [app @ .., "tasks"]) if !app.is_empty() => Request::AppTasks { id: path_of(app) },
        ("DELETE", [app @ .., "tasks"]) if !app.is_empty() => Request::KillAppTasks {
            id: path_of(app),
            host: query.get("host"),
            how: query.how()?,
        },
        ("DELETE", [app @ .., "tasks", task]) if !app.is_empty() => Request::KillTask {
            id: path_of(app),
            task: (*task).to_owned(),
            how: query.how()?,
        },
        ("GET", [app @ .., "versions"]) if !app.is_empty() => {
            Request::Versions { id: path_of(app) }
        }
        ("GET", [app @ .., "versions", version]) if !app.is_empty() => Request::GetVersion {
            id: path_of(app),
            version: (*version).to_owned(),
        },
        ("GET", [app @ .., "why"]) if !app.is_empty() => Request::Why { id: path_of(app) },
        ("POST", [app @ .., "restart"]) if !app.is_empty() => Request::Restart {
            id: path_of(app),
            force: force()?,
        },
        (_, [app @ .., "tasks" | "versions" | "restart"]) if !app.is_empty() => return Ok(None),
        ("GET", [group @ .., "*"]) => Request::GroupApps {
            group: path_of(group),
            embed: query.embed(),
        },
        ("GET", app) => Request::GetApp { id: path_of(app) },
        ("PUT" | "PATCH", app) => Request::PutApp {
            id: path_of(app),
            body: json::read(body)?,
            force: force()?,
            partial: method == "PATCH" || query.flag("partialUpdate", true)?,
            must_exist: method == "PATCH",
        },
        // Marathon's default here is true: whoever deletes an app does not care what changes it.
        ("DELETE", app) => Request::DeleteApp {
            id: path_of(app),
            force: query.flag("force", true)?,
        },
        _ => return Ok(None),
    }))
}

fn read_ids(body: &Value) -> Result<Vec<String>, Answer> {
    let mut problems = Problems::default();
    let ids = json::Fields::of("", body, &mut problems).and_then(|mut fields| {
        let ids = fields.texts("ids", &mut problems);
        fields.finish(&mut problems);
        ids
    });
    if !problems.is_empty() {
        return Err(problems.answer());
    }
    let ids = ids.unwrap_or_default();
    let strange = |id: &&String| {
        super::id::InstanceId::of_task(id).is_none() && super::id::InstanceId::parse(id).is_none()
    };
    match ids.iter().find(strange) {
        Some(id) => {
            let shown: String = id.chars().take(100).collect();
            Err(Answer::refuse(
                400,
                format!("{shown:?} is no task id of this framework"),
            ))
        }
        None => Ok(ids),
    }
}

/// The id of an app in a path; a malformed one names no app.
pub(super) fn app_id(text: &str) -> Result<AppId, Answer> {
    AppId::parse(text).map_err(|_| Answer::no_app(text))
}

/// The objects of a body that is an array of them, or one.
pub(super) fn objects(body: &Value) -> Result<Vec<&Map<String, Value>>, Answer> {
    let mut problems = Problems::default();
    let items = match body {
        Value::Array(items) => items.as_slice(),
        other => {
            problems.shape(
                "/",
                format!("expected an array of apps, got {}", kind(other)),
            );
            return Err(problems.answer());
        }
    };
    let mut maps = Vec::new();
    for (i, item) in items.iter().enumerate() {
        match item {
            Value::Object(map) => maps.push(map),
            other => problems.shape(
                format!("/({i})"),
                format!("expected an object, got {}", kind(other)),
            ),
        }
    }
    if problems.is_empty() {
        Ok(maps)
    } else {
        Err(problems.answer())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &str, query: &str) -> Result<Request, Answer> {
        read("GET", path, query, b"")
    }

    #[test]
    fn slashes_may_be_doubled_and_trail() {
        let plain = get("/v2/apps/shop/web", "").unwrap();
        assert_eq!(get("/v2/apps//shop/web/", "").unwrap(), plain);
        assert_eq!(get("//v2//apps//shop%2Fweb", "").unwrap(), plain);
        assert!(
            matches!(get("/v2/apps/", "embed=apps.tasks"), Ok(Request::ListApps { embed, .. }) if embed.tasks)
        );
    }

    #[test]
    fn booleans_are_read_in_any_case() {
        let kill = |query: &str| read("DELETE", "/v2/apps/a/tasks", query, b"");
        let how = |query: &str| match kill(query) {
            Ok(Request::KillAppTasks { how, .. }) => how,
            other => panic!("{other:?}"),
        };
        assert!(how("scale=True&wipe=False").scale);
        assert!(how("wipe=TRUE").wipe);
        assert_eq!(kill("scale=true&wipe=true").unwrap_err().status, 400);
        assert_eq!(kill("scale=maybe").unwrap_err().status, 400);
    }

    #[test]
    fn what_is_not_there_is_404_and_a_wrong_method_405() {
        for path in [
            "/",
            "/v1/apps",
            "/v2",
            "/v2/nothing",
            "/v2/groups",
            "/v2/events",
            "/v2/apps/%zz",
            "/v2/%",
        ] {
            assert_eq!(get(path, "").unwrap_err().status, 404, "{path}");
        }
        for (method, path) in [
            ("DELETE", "/v2/apps"),
            ("PUT", "/v2/queue"),
            ("POST", "/v2/apps/a"),
            ("PUT", "/v2/apps/a/tasks"),
        ] {
            assert_eq!(
                read(method, path, "", b"{}").unwrap_err().status,
                405,
                "{method} {path}"
            );
        }
    }

    #[test]
    fn deleting_an_app_overrides_locks_unless_told_otherwise() {
        let force = |query: &str| match read("DELETE", "/v2/apps/a", query, b"") {
            Ok(Request::DeleteApp { force, .. }) => force,
            other => panic!("{other:?}"),
        };
        assert!(force(""));
        assert!(!force("force=False"));
    }

    #[test]
    fn task_ids_that_nobody_made_are_refused() {
        let body = br#"{"ids":["x y"]}"#;
        assert_eq!(
            read("POST", "/v2/tasks/delete", "", body)
                .unwrap_err()
                .status,
            400
        );
        let body = br#"{"ids":[1]}"#;
        assert_eq!(
            read("POST", "/v2/tasks/delete", "", body)
                .unwrap_err()
                .status,
            422
        );
    }
}
