//! Marathon's widely used Python client (PyPI `marathon` 0.13.0) against the service.
//!
//! The client is installed into a virtual environment under `target/`, once; that takes python3
//! with its venv module (`test.sh` installs both) and a way to the package index, and the test
//! fails without them. Master real, agent scripted, as in `rest.rs`.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "rest/cluster.rs"]
mod cluster;

use std::path::{Path, PathBuf};
use std::process::Command;

use cluster::{agent, config, master, ready};

const CLIENT: &str = "marathon==0.13.0";

/// What the client does; a failed assertion ends it with status 1. Its own two mistakes on
/// Python 3.10 and later (`collections.Iterable`, and a `StopIteration` of `kill_tasks` in
/// batches) are worked around or left alone.
const SCRIPT: &str = r#"
import collections, collections.abc, sys, time
collections.Iterable = collections.abc.Iterable
from marathon import MarathonClient
from marathon.exceptions import ConflictError, MarathonHttpError, NotFoundError
from marathon.models import MarathonApp, MarathonConstraint, MarathonHealthCheck

c = MarathonClient(sys.argv[1])

def settled():
    for _ in range(2000):
        if not c.list_deployments():
            return
        time.sleep(0.01)
    raise AssertionError("the deployments never end")

def refused(kind, f):
    try:
        f()
    except kind as error:
        return error
    raise AssertionError("not refused")

assert c.ping() == b"pong"
assert c.get_info().version.startswith("1.")
app = c.create_app("py", MarathonApp(
    cmd="sleep 1000", mem=16, cpus=0.05, instances=2, labels={"a": "b"},
    constraints=[MarathonConstraint("hostname", "LIKE", ".*")]))
assert app.id == "/py" and app.instances == 2, app
settled()
assert [a.id for a in c.list_apps(embed_tasks=True, embed_failures=True)] == ["/py"]
assert [a.id for a in c.list_apps(label="a==b")] == ["/py"]
assert len(c.get_app("py", embed_tasks=True).tasks) == 2
assert len(c.list_tasks()) == 2
c.scale_app("py", instances=3); settled()
c.scale_app("py", delta=-1); settled()
assert c.get_app("py").tasks_running == 2
c.update_app("py", MarathonApp(cmd="sleep 2000")); settled()
app = c.get_app("py")
assert app.cmd == "sleep 2000" and app.instances == 2, app
app.mem = 24
c.update_app("py", app, minimal=False); settled()
first = c.list_versions("py")[-1]
assert c.get_version("py", first).cmd == "sleep 1000"
c.rollback_app("py", first); settled()
assert c.get_app("py").cmd == "sleep 1000"
c.restart_app("py"); settled()
task = c.list_tasks("py")[0]
assert c.kill_task("py", task.id).id == task.id
assert c.kill_given_tasks([c.list_tasks("py")[0].id])
c.kill_tasks("py", scale=True); settled()
refused(ConflictError, lambda: c.create_app("py", MarathonApp(cmd="sleep 1")))
refused(MarathonHttpError, lambda: c.create_app("bad", MarathonApp(cmd="sleep 1", cpus=-1)))
refused(NotFoundError, lambda: c.get_app("nobody"))
c.create_app("big", MarathonApp(cmd="sleep 1000", mem=1000000))
waiting = [item.app.id for item in c.list_queue()]
assert waiting == ["/big"], waiting
c.reset_delay("big")
locked = refused(MarathonHttpError, lambda: c.update_app("big", MarathonApp(cmd="sleep 3")))
assert locked.status_code == 409
c.delete_deployment(c.list_deployments()[0].id); settled()
refused(NotFoundError, lambda: c.get_app("big"))
c.delete_app("py", force=True); settled()
assert c.list_apps() == []
"#;

/// The interpreter of an environment that has the client, made unless it is there.
fn python() -> PathBuf {
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("marathon-client");
    let python = venv.join("bin/python");
    let has = Command::new(&python)
        .args(["-c", "import marathon"])
        .output();
    if !has.is_ok_and(|output| output.status.success()) {
        // What an interrupted installation left is of no use.
        let _none = std::fs::remove_dir_all(&venv);
        let made = Command::new("python3")
            .args(["-m", "venv"])
            .arg(&venv)
            .output();
        succeeded("python3 -m venv (bash test.sh installs python3-venv)", made);
        let pip = [
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            CLIENT,
        ];
        let got = Command::new(&python).args(pip).output();
        succeeded(&format!("pip install {CLIENT}"), got);
    }
    python
}

#[track_caller]
fn succeeded(what: &str, ended: std::io::Result<std::process::Output>) {
    match ended {
        Ok(output) if output.status.success() => {}
        Ok(output) => panic!(
            "{what} failed, so the client cannot be tried: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ),
        Err(error) => panic!("{what} failed, so the client cannot be tried: {error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn marathons_python_client_works() {
    let python = tokio::task::spawn_blocking(python).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let master = master(folder.path(), 0).await;
    let _agent = agent(master.url(), "cpus:8; mem:8192; ports:[31000-31999]").await;
    let services = allotment_services::start(config(master.url()))
        .await
        .unwrap();
    ready(services.url()).await;
    let url = services.url().to_owned();
    let run = move || {
        Command::new(python)
            .args(["-W", "ignore", "-c", SCRIPT, &url])
            .output()
    };
    let output = tokio::task::spawn_blocking(run).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    services.stop().await;
    master.stop().await;
}
