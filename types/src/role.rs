//! Roles: the names that resources are allocated to.

use std::fmt;
use std::sync::Arc;

/// `*`, `web` or a path such as `eng/web`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Role(Arc<str>);

/// Why a text is no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("role {role:?} {reason}; a role is `*` or words joined by `/`, such as eng/web")]
pub struct RoleError {
    role: String,
    reason: &'static str,
}

impl Role {
    /// The longest role that is accepted, in bytes.
    pub const LEN_MAX: usize = 1024;

    /// The role of everybody, `*`.
    pub fn star() -> Self {
        Self("*".into())
    }

    /// Checks and wraps a role from outside.
    ///
    /// # Errors
    /// [`RoleError`] for what Mesos' `roles.md` refuses: an empty text or part, a part that is
    /// `.`, `..` or `*`, begins with `-`, or holds whitespace or control characters.
    pub fn parse(role: &str) -> Result<Self, RoleError> {
        let refuse = |reason| {
            Err(RoleError {
                role: role.chars().take(80).collect(),
                reason,
            })
        };
        if role == "*" {
            return Ok(Self::star());
        }
        if role.is_empty() {
            return refuse("is empty");
        }
        if role.len() > Self::LEN_MAX {
            return refuse("is longer than 1024 bytes");
        }
        for part in role.split('/') {
            if part.is_empty() {
                return refuse("has an empty part");
            }
            if matches!(part, "." | ".." | "*") {
                return refuse("has a part that is `.`, `..` or `*`");
            }
            if part.starts_with('-') {
                return refuse("has a part that begins with `-`");
            }
            if part.chars().any(|c| c.is_whitespace() || c.is_control()) {
                return refuse("holds whitespace or a control character");
            }
        }
        Ok(Self(role.into()))
    }

    /// The role as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `eng` for `eng/web`; `None` for a role at the top.
    pub fn parent(&self) -> Option<Self> {
        let (parent, _) = self.0.rsplit_once('/')?;
        Some(Self(parent.into()))
    }

    /// Whether `other` lies strictly below this role.
    pub fn is_ancestor_of(&self, other: &Self) -> bool {
        other
            .0
            .strip_prefix(&*self.0)
            .is_some_and(|rest| rest.starts_with('/'))
    }

    /// This role and its ancestors, the top first: `eng`, `eng/web`, `eng/web/api`.
    pub fn path(&self) -> impl Iterator<Item = Self> + '_ {
        let ends = self.0.match_indices('/').map(|(at, _)| at);
        ends.chain([self.0.len()])
            .map(|end| Self(self.0[..end].into()))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for Role {
    type Err = RoleError;

    fn from_str(role: &str) -> Result<Self, RoleError> {
        Self::parse(role)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_lies_below_its_ancestors_and_no_namesake() {
        let role = |text| Role::parse(text).unwrap();
        assert!(role("eng").is_ancestor_of(&role("eng/web/api")));
        assert!(!role("eng").is_ancestor_of(&role("engine/web")));
        assert!(!role("eng").is_ancestor_of(&role("eng")));
        assert_eq!(role("eng/web").parent(), Some(role("eng")));
        assert_eq!(role("eng").parent(), None);
        let path: Vec<Role> = role("eng/web/api").path().collect();
        assert_eq!(path, [role("eng"), role("eng/web"), role("eng/web/api")]);
    }

    #[test]
    fn roles_follow_mesos_rules() {
        for role in ["*", "web", "eng/web", "a.b"] {
            assert!(Role::parse(role).is_ok(), "{role:?} was refused");
        }
        for role in [
            "", "a//b", "/a", "a/", ".", "a/..", "-a", "a b", "a/*", "a\u{7}",
        ] {
            assert!(Role::parse(role).is_err(), "{role:?} was accepted");
        }
    }
}
