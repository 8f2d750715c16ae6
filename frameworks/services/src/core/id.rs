//! Names: apps as paths, instances and tasks made from them, versions as instants.

use std::fmt;
use std::sync::Arc;

use allotment_types::{TaskId, Timestamp};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest app id, in bytes: with `.instance-`, a uuid and the incarnation it still makes a
/// task id of at most 255.
pub const APP_ID_LEN_MAX: usize = 180;

/// An app's absolute path, `/shop/web`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AppId(Arc<str>);

impl AppId {
    /// Reads a path; a relative one starts at the root.
    ///
    /// # Errors
    /// A sentence when it breaks Marathon's rules for app ids.
    pub fn parse(text: &str) -> Result<Self, String> {
        let path = text.strip_prefix('/').unwrap_or(text);
        if path.is_empty() {
            return Err("must name an app; `/` is the root group".to_owned());
        }
        if path.len() >= APP_ID_LEN_MAX {
            return Err(format!(
                "has {} bytes, at most {APP_ID_LEN_MAX} are allowed",
                path.len() + 1
            ));
        }
        for segment in path.split('/') {
            if !segment.split('.').all(is_label) {
                return Err(format!(
                    "must fully match regular expression \
                     '^(([a-z0-9]|[a-z0-9][a-z0-9\\-]*[a-z0-9])\\.)*([a-z0-9]|[a-z0-9][a-z0-9\\-]*[a-z0-9])$' \
                     in every part between slashes; {:?} does not",
                    segment.chars().take(60).collect::<String>()
                ));
            }
        }
        let last = path.rsplit('/').next().unwrap_or_default();
        if matches!(last, "restart" | "tasks" | "versions") {
            return Err(format!(
                "must not end in `{last}`, which the REST API uses itself"
            ));
        }
        Ok(Self(format!("/{path}").into()))
    }

    /// The path, with its leading slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path with `_` between its parts, as it begins instance ids.
    pub fn safe(&self) -> String {
        self.0.trim_start_matches('/').replace('/', "_")
    }

    /// Whether this app lies below the group `group`, `/shop` for example; `/` holds all.
    pub fn is_below(&self, group: &str) -> bool {
        group == "/"
            || self
                .0
                .strip_prefix(group)
                .is_some_and(|rest| rest.starts_with('/'))
    }
}

fn is_label(label: &str) -> bool {
    let bytes = label.as_bytes();
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    bytes.first().is_some_and(plain)
        && bytes.last().is_some_and(plain)
        && bytes.iter().all(|b| plain(b) || *b == b'-')
}

impl fmt::Display for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for AppId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for AppId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// `<app with _>.instance-<uuid>`; kept while its tasks are replaced after failures.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(Arc<str>);

const MARK: &str = ".instance-";

impl InstanceId {
    /// The instance `uuid` of `app`.
    pub fn new(app: &AppId, uuid: &str) -> Self {
        Self(format!("{}{MARK}{uuid}", app.safe()).into())
    }

    /// Reads an instance id.
    pub fn parse(text: &str) -> Option<Self> {
        let (app, uuid) = text.rsplit_once(MARK)?;
        uuid::Uuid::parse_str(uuid).ok()?;
        AppId::parse(&app.replace('_', "/")).ok()?;
        Some(Self(text.into()))
    }

    /// Its `incarnation`th task.
    pub fn task(&self, incarnation: u32) -> Option<TaskId> {
        TaskId::parse(&format!("{}._app.{incarnation}", self.0)).ok()
    }

    /// Which app, instance and incarnation a task id names; `None` when we never made it.
    pub fn of_task(task: &str) -> Option<(AppId, Self, u32)> {
        let (instance, incarnation) = task.rsplit_once("._app.")?;
        let id = Self::parse(instance)?;
        let (app, _) = instance.rsplit_once(MARK)?;
        let app = AppId::parse(&app.replace('_', "/")).ok()?;
        Some((app, id, incarnation.parse().ok()?))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A version of an app: the instant of its making in milliseconds, unique by construction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Version(pub u64);

impl Version {
    /// Reads an ISO-8601 instant.
    pub fn parse(text: &str) -> Option<Self> {
        let at: jiff::Timestamp = text.parse().ok()?;
        u64::try_from(at.as_millisecond()).ok().map(Self)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&iso(Timestamp::from_millis(self.0)))
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text)
            .ok_or_else(|| serde::de::Error::custom(format!("{text:?} is no ISO-8601 instant")))
    }
}

/// An instant as Marathon prints it: ISO-8601, UTC, milliseconds, `Z`.
pub fn iso(at: Timestamp) -> String {
    i64::try_from(at.as_millis())
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map_or_else(
            || "9999-12-31T23:59:59.999Z".to_owned(),
            |at| at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn app_ids_follow_marathons_rules() {
        for id in ["web", "/web", "/shop/web-1", "/a.b/c", "/9", "/a/tasks/b"] {
            assert!(AppId::parse(id).is_ok(), "{id:?} was refused");
        }
        for id in [
            "",
            "/",
            "//",
            "/a//b",
            "/a/",
            "/A",
            "/a_b",
            "/-a",
            "/a-",
            "/a..b",
            "/a/..",
            "/.",
            "/a b",
            "/a\n",
            "/ä",
            "/x/tasks",
            "/restart",
            "/v/versions",
            "/\u{0}",
        ] {
            assert!(AppId::parse(id).is_err(), "{id:?} was accepted");
        }
        assert!(AppId::parse(&format!("/{}", "a".repeat(179))).is_ok());
        assert!(AppId::parse(&format!("/{}", "a".repeat(180))).is_err());
    }

    #[test]
    fn a_task_id_leads_back_to_its_app_and_instance() {
        let app = AppId::parse("/shop/web.instance-x").unwrap();
        let uuid = "00000000-0000-4000-8000-000000000000";
        let instance = InstanceId::new(&app, uuid);
        let task = instance.task(3).unwrap();
        assert_eq!(
            task.as_str(),
            format!("shop_web.instance-x.instance-{uuid}._app.3")
        );
        assert_eq!(InstanceId::of_task(task.as_str()), Some((app, instance, 3)));
        assert_eq!(InstanceId::of_task("batch.1"), None);
    }

    #[test]
    fn the_longest_app_id_still_makes_a_task_id() {
        let app = AppId::parse(&format!("/{}", "a".repeat(179))).unwrap();
        let instance = InstanceId::new(&app, &uuid::Uuid::nil().to_string());
        assert!(instance.task(u32::MAX).is_some());
    }

    #[test]
    fn versions_print_with_three_decimals_and_read_back() {
        let version = Version(1_700_000_000_120);
        assert_eq!(version.to_string(), "2023-11-14T22:13:20.120Z");
        assert_eq!(Version::parse("2023-11-14T22:13:20.120Z"), Some(version));
        assert_eq!(Version::parse("2023-11-14T22:13:20.12Z"), Some(version));
        assert_eq!(Version::parse("yesterday"), None);
    }
}
