//! What is answered to a request, before HTTP.

use serde_json::{Value, json};

/// One answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// JSON; nothing when `None`.
    pub body: Option<Value>,
    /// The deployment that was started: header `Marathon-Deployment-Id`.
    pub deployment: Option<String>,
    /// Where what was made can be read: header `Location`.
    pub location: Option<String>,
}

impl Answer {
    /// JSON with a status.
    pub fn json(status: u16, body: Value) -> Self {
        Self {
            status,
            body: Some(body),
            deployment: None,
            location: None,
        }
    }

    /// 200 with JSON.
    pub fn ok(body: Value) -> Self {
        Self::json(200, body)
    }

    /// A status and nothing else.
    pub fn empty(status: u16) -> Self {
        Self {
            status,
            body: None,
            deployment: None,
            location: None,
        }
    }

    /// A "no" in Marathon's form: `{"message": …}`.
    pub fn refuse(status: u16, message: impl Into<String>) -> Self {
        Self::json(status, json!({ "message": message.into() }))
    }

    /// 404 for an app.
    pub fn no_app(app: &str) -> Self {
        Self::refuse(404, format!("App '{app}' does not exist"))
    }

    /// 422 for one field.
    pub fn invalid(path: &str, error: impl Into<String>) -> Self {
        let mut problems = Problems::default();
        problems.rule(path, error);
        problems.answer()
    }
}

/// Everything that is wrong with a body, by path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems {
    shapes: Vec<(String, String)>,
    rules: Vec<(String, String)>,
}

/// More problems than these help nobody.
const PROBLEMS_MAX: usize = 50;

impl Problems {
    /// Something has the wrong type.
    pub fn shape(&mut self, path: impl Into<String>, error: impl Into<String>) {
        if self.shapes.len() < PROBLEMS_MAX {
            self.shapes.push((path.into(), error.into()));
        }
    }

    /// Something breaks a rule or is not supported.
    pub fn rule(&mut self, path: impl Into<String>, error: impl Into<String>) {
        if self.rules.len() < PROBLEMS_MAX {
            self.rules.push((path.into(), error.into()));
        }
    }

    /// Nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.shapes.is_empty() && self.rules.is_empty()
    }

    /// 422 with the details, types before rules as in Marathon.
    pub fn answer(self) -> Answer {
        let (message, list) = if self.shapes.is_empty() {
            ("Object is not valid", self.rules)
        } else {
            ("Invalid JSON", self.shapes)
        };
        let mut details: Vec<(String, Vec<String>)> = Vec::new();
        for (path, error) in list {
            match details.iter_mut().find(|(p, _)| *p == path) {
                Some((_, errors)) => errors.push(error),
                None => details.push((path, vec![error])),
            }
        }
        let details: Vec<Value> = details
            .into_iter()
            .map(|(path, errors)| json!({ "path": path, "errors": errors }))
            .collect();
        Answer::json(422, json!({ "message": message, "details": details }))
    }
}
