//! A master with the curfew: `curfew-master SETTINGS [PORT] [DATA-FOLDER]`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use allotment_allocator::Allocator;
use allotment_example_curfew::{Curfew, Rules};
use allotment_master::Config;
use anyhow::Context as _;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let settings = args
        .next()
        .unwrap_or_else(|| r#"{"roles": ["batch"], "from_hour": 8, "to_hour": 20}"#.to_owned());
    let port = args.next().map_or(Ok(5050), |port| port.parse());
    let mut config = Config {
        listen: SocketAddr::new(
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            port.context("the second argument is the port")?,
        ),
        ..Config::default()
    };
    if let Some(folder) = args.next() {
        config.data_dir = folder.into();
    }
    let rules = Rules::parse(&settings)?;
    // Whenever this master begins to decide, it begins with a module that knows nothing yet.
    let module = move || Box::new(Curfew::new(rules.clone())) as Box<dyn Allocator>;
    let mut master = allotment_master::start_with(config, module).await?;
    #[expect(clippy::print_stdout, reason = "a program's own output")]
    {
        println!("ready master {}", master.url());
    }
    Err(master.wait().await.into())
}
