//! `allot events`: what happens in the cluster, as it happens.

use std::process::ExitCode;

use allotment_proto::allot::{ClusterEvent, EventsRequest};

use crate::context::Context;
use crate::output::{self, Cell, Format, Row, Tone};

/// Arguments of `allot events`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// After the recent past, go on with what happens
    #[arg(long, short)]
    follow: bool,
}

/// Runs the command.
pub(crate) async fn run(ctx: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let request = EventsRequest {
        replay: true,
        follow: Some(args.follow),
    };
    let answer = ctx.operator().await?.events(request).await;
    let mut events = answer.map_err(|status| ctx.refused(&status))?.into_inner();
    let mut past = Vec::new();
    while let Some(event) = events.message().await.map_err(|s| ctx.refused(&s))? {
        if args.follow {
            tell(ctx.output, &event)?;
        } else {
            past.push(event);
        }
    }
    if !args.follow {
        output::rows(ctx.output, &past)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// One event as it comes: a line for people, a JSON line or a YAML document for programs.
fn tell(format: Format, event: &ClusterEvent) -> anyhow::Result<()> {
    match format {
        Format::Table => {
            let colours = output::colours_on_stdout();
            let kind = Cell::new(format!("{:24}", event.kind), tone(&event.kind));
            output::line(&format!(
                "{}  {}  {}",
                Cell::new(output::clock(event.time), Tone::Dim).painted(colours),
                kind.painted(colours),
                Cell::from(event.message.as_str()).painted(colours)
            ))
        }
        Format::Json => output::line(&serde_json::to_string(event)?),
        Format::Yaml => output::text(&format!("---\n{}", serde_yaml_ng::to_string(event)?)),
    }
}

/// The colour of an event, from the last word of its kind.
pub(crate) fn tone(kind: &str) -> Tone {
    match kind.rsplit('-').next().unwrap_or(kind) {
        "registered" | "reregistered" | "connected" | "subscribed" | "running" | "accepted" => {
            Tone::Good
        }
        "failed" | "lost" | "error" | "unreachable" | "disconnected" | "dropped" | "gone" => {
            Tone::Bad
        }
        "staging" | "starting" | "killing" | "sent" | "rescinded" | "expired" => Tone::Busy,
        _ => Tone::Plain,
    }
}

impl Row for ClusterEvent {
    const COLUMNS: &'static [&'static str] = &["TIME", "EVENT", "WHAT"];

    fn cells(&self) -> Vec<Cell> {
        vec![
            Cell::new(output::clock(self.time), Tone::Dim),
            Cell::new(self.kind.as_str(), tone(&self.kind)),
            self.message.as_str().into(),
        ]
    }
}
