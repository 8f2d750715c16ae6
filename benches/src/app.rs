//! `POST /v2/apps` until the API says that the instance runs, on an idle cluster.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::report::{Number, clock, ms, percentile, table};

/// Arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many apps, one after the other
    #[arg(long, default_value_t = Self::default().times)]
    times: usize,
}

/// How often the API is asked whether the instance runs; the measured time is at most this late.
const POLL: Duration = Duration::from_millis(1);

/// An app that does not run by then never will.
const PATIENCE: Duration = Duration::from_secs(30);

impl Default for Args {
    fn default() -> Self {
        Self { times: 50 }
    }
}

/// Measures.
pub(crate) fn measure(allot: &Path, args: &Args) -> anyhow::Result<()> {
    let mut numbers = Vec::new();
    for isolation in ["none", "auto"] {
        let cluster = Cluster::start(
            allot,
            "cpus:2;mem:2048;disk:4096;ports:[31000-31999]",
            isolation,
        )?;
        let url = cluster.services_url()?;
        let address = url
            .trim_start_matches("http://")
            .trim_end_matches('/')
            .to_owned();
        let mut samples = Vec::with_capacity(args.times);
        for i in 0..=args.times {
            let id = format!("/app{i}");
            let app =
                json!({"id": id, "cmd": "sleep 1000", "cpus": 0.1, "mem": 16, "instances": 1});
            let start = clock();
            let (status, body) = http(&address, "POST", "/v2/apps", Some(&app))?;
            if status != 201 {
                bail!("POST /v2/apps answered {status}: {body}");
            }
            loop {
                let (_, body) = http(&address, "GET", &format!("/v2/apps{id}"), None)?;
                if body["app"]["tasksRunning"] == 1 {
                    break;
                }
                if start.elapsed() > PATIENCE {
                    bail!("{id} does not run after {PATIENCE:?}: {body}");
                }
                std::thread::sleep(POLL);
            }
            if i > 0 {
                samples.push(start.elapsed());
            }
            http(&address, "DELETE", &format!("/v2/apps{id}"), None)?;
            let gone = clock();
            while http(&address, "GET", "/v2/tasks", None)?.1["tasks"] != json!([]) {
                if gone.elapsed() > PATIENCE {
                    bail!("{id} was deleted but its task is still there after {PATIENCE:?}");
                }
                std::thread::sleep(POLL);
            }
        }
        let what = format!(
            "POST to TASK_RUNNING, isolation {isolation}, {} apps",
            args.times
        );
        numbers.push(Number::new(
            &format!("{what}, p50"),
            ms(percentile(&mut samples, 50)),
            "50 ms",
            "",
        ));
        numbers.push(Number::new(
            &format!("{what}, p99"),
            ms(percentile(&mut samples, 99)),
            "",
            "",
        ));
    }
    table(&numbers);
    Ok(())
}

/// One request on a connection of its own. The measured server is on this machine and answers
/// with `Connection: close`, so that the body ends where the stream does.
fn http(
    address: &str,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> anyhow::Result<(u16, Value)> {
    let body = body.map(Value::to_string).unwrap_or_default();
    let mut stream = TcpStream::connect(address)?;
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("an HTTP answer without a body")?;
    let status = head.split(' ').nth(1).context("an HTTP status")?.parse()?;
    Ok((
        status,
        serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned())),
    ))
}
