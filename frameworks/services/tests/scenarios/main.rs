//! What becomes of apps, told over the pure core and an imaginary cluster, one file per idea.

#[path = "../common/mod.rs"]
mod common;

mod away;
mod deployments;
mod failures;
mod placement;
mod versions;

use std::time::Duration;

use common::{AGENT, World};

const WEB: &str = r#"{"id":"/web","cmd":"serve","cpus":0.5,"mem":64,"instances":3}"#;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn web() -> World {
    let mut w = World::new().agent("a1", AGENT).agent("a2", AGENT);
    assert_eq!(w.post(WEB).status, 201);
    w.settle();
    w
}
