//! Input files for agents on other machines: each run gets an address nobody can guess.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;

use allotment_framework_sdk::Call;
use allotment_types::TaskId;

use crate::core::SPOOL_SCHEME;

/// The files that may be fetched, by address.
#[derive(Debug)]
pub(crate) struct Spool {
    url: String,
    granted: Mutex<Granted>,
}

#[derive(Debug, Default)]
struct Granted {
    files: BTreeMap<String, Vec<PathBuf>>,
    tokens: BTreeMap<TaskId, String>,
}

impl Spool {
    /// Files are reached below `url`.
    pub(crate) fn new(url: String) -> Self {
        Self {
            url,
            granted: Mutex::default(),
        }
    }

    /// Writes addresses in the place of `spool://` in a launch.
    pub(crate) fn grant(&self, call: &mut Call) {
        let Call::Accept { tasks, .. } = call else {
            return;
        };
        for task in tasks {
            let mut files = Vec::new();
            let token = uuid::Uuid::new_v4().simple().to_string();
            for uri in &mut task.uris {
                if let Some(path) = uri.value.strip_prefix(SPOOL_SCHEME) {
                    let at = files.len();
                    files.push(PathBuf::from(path));
                    uri.value = format!("{}/spool/{token}/{at}", self.url);
                }
            }
            if files.is_empty() {
                continue;
            }
            if let Ok(mut granted) = self.granted.lock() {
                granted.files.insert(token.clone(), files);
                granted.tokens.insert(task.id.clone(), token);
            }
        }
    }

    /// The run is over: its files cannot be fetched any more.
    pub(crate) fn revoke(&self, task: &TaskId) {
        if let Ok(mut granted) = self.granted.lock()
            && let Some(token) = granted.tokens.remove(task)
        {
            granted.files.remove(&token);
        }
    }

    /// The file behind an address.
    pub(crate) fn find(&self, token: &str, at: usize) -> Option<PathBuf> {
        let granted = self.granted.lock().ok()?;
        granted.files.get(token)?.get(at).cloned()
    }
}
