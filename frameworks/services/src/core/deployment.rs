//! Deployments: a change of apps under way, the plan of its steps, and the locks it holds.
//!
//! The lock on an app *is* the deployment that lists it: there is no other record of it, so a
//! lock without a listed deployment cannot exist.

use std::sync::Arc;

use super::app::App;
use super::id::{AppId, Version};

/// What is done to one app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It appears.
    Start,
    /// It goes away with all its instances.
    Stop,
    /// The number of instances changes.
    Scale,
    /// Every instance is replaced, rolling.
    Restart,
}

impl Kind {
    /// The name that Marathon gives it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "StartApplication",
            Self::Stop => "StopApplication",
            Self::Scale => "ScaleApplication",
            Self::Restart => "RestartApplication",
        }
    }

    /// The action of this name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Start, Self::Stop, Self::Scale, Self::Restart]
            .into_iter()
            .find(|kind| kind.name() == name)
    }
}

/// One action of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    /// What is done.
    pub kind: Kind,
    /// To which app.
    pub app: AppId,
}

/// How one app changes.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Which app.
    pub app: AppId,
    /// What it was; `None` when it is new.
    pub from: Option<Arc<App>>,
    /// What it becomes; `None` when it goes away.
    pub to: Option<Arc<App>>,
}

/// A change of apps under way.
#[derive(Debug, Clone, PartialEq)]
pub struct Deployment {
    /// Its uuid.
    pub id: String,
    /// The version of what it brings.
    pub version: Version,
    /// What it changes; these apps are locked.
    pub changes: Vec<Change>,
    /// Its steps; the actions of one run side by side.
    pub steps: Vec<Vec<Action>>,
    /// The step under way, from 0.
    pub step: usize,
}

impl Deployment {
    /// Whether it locks this app.
    pub fn locks(&self, app: &AppId) -> bool {
        self.changes.iter().any(|change| change.app == *app)
    }

    /// The actions under way.
    pub fn current(&self) -> &[Action] {
        self.steps.get(self.step).map_or(&[], Vec::as_slice)
    }
}

/// The steps that bring `changes` about: stop, start, then scale and restart side by side.
/// `stale` tells whether an app has instances of an outdated configuration, which a mere change
/// of numbers would leave behind.
pub fn plan(changes: &[Change], stale: impl Fn(&AppId) -> bool) -> Vec<Vec<Action>> {
    let mut steps = [Vec::new(), Vec::new(), Vec::new()];
    let [stop, start, rest] = &mut steps;
    for change in changes {
        let action = |kind| Action {
            kind,
            app: change.app.clone(),
        };
        match (&change.from, &change.to) {
            (None, None) => {}
            (Some(_), None) => stop.push(action(Kind::Stop)),
            (None, Some(_)) => {
                start.push(action(Kind::Start));
                rest.push(action(Kind::Scale));
            }
            (Some(from), Some(to)) => {
                let renewed = from.version_info.last_config_change_at
                    != to.version_info.last_config_change_at;
                let kind = if (renewed || stale(&change.app)) && to.instances > 0 {
                    Kind::Restart
                } else {
                    Kind::Scale
                };
                rest.push(action(kind));
            }
        }
    }
    steps.into_iter().filter(|step| !step.is_empty()).collect()
}
