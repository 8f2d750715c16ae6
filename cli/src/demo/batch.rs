//! The second half: a word count as batch jobs, merged and compared with the direct answer.

use allotment_proto::allot::batch_client::BatchClient;
use allotment_proto::allot::{JobSelection, WaitJobsRequest};
use anyhow::{Context as _, ensure};

use super::files;
use super::story::{Heard, Story};
use crate::rpc::{self, Peer};

/// Submits the counting jobs, then the merging one, and checks the merged count.
pub(crate) async fn tell(story: &mut Story) -> anyhow::Result<()> {
    story
        .screen
        .section("A batch: examples/wordcount.sub, one job for each part of a text");
    story.tells_tasks = false;
    let outcome = count(story).await;
    story.tells_tasks = true;
    if let Err(error) = outcome {
        story.screen.check(Err(format!("{error:#}")));
    }
    Ok(())
}

async fn count(story: &mut Story) -> anyhow::Result<()> {
    let jobs = submit(story, "wordcount.sub", "jobs have counted").await?;
    story
        .screen
        .check(Ok(format!("{jobs} jobs counted their part, each once")));
    submit(story, "wordcount-merge.sub", "job has merged").await?;
    let merged = files::merged_count(story.folder())?;
    let direct = files::direct_count();
    story.screen.check(if merged == direct {
        let words: u64 = direct.values().sum();
        let top = files::most_frequent(&direct, 3);
        Ok(format!(
            "the merged count equals the direct one: {words} words, {} different, most often {top}",
            direct.len()
        ))
    } else {
        let differing = direct
            .iter()
            .find(|(word, n)| merged.get(*word) != Some(n))
            .map(|(word, _)| word.as_str())
            .or_else(|| {
                merged
                    .keys()
                    .find(|w| !direct.contains_key(*w))
                    .map(String::as_str)
            })
            .unwrap_or("");
        let said = |counts: &files::Counts| counts.get(differing).copied().unwrap_or(0);
        Err(format!(
            "the merged count differs from the direct one: {differing:?} is there {} times, not {}",
            said(&merged),
            said(&direct)
        ))
    });
    Ok(())
}

/// Submits a file and waits until all its jobs have ended well; returns how many there were.
async fn submit(story: &mut Story, file: &str, what: &'static str) -> anyhow::Result<u64> {
    let printed = story.command(&["job", "submit", file]).await?;
    let cluster = cluster_of(&printed)
        .with_context(|| format!("no cluster number in what was printed: {printed:?}"))?;
    let url = story.ctx.batch_url().await?;
    let teller = story.teller();
    story
        .until("the jobs to end", async move {
            let channel = rpc::connect(Peer::Batch, &url).await?;
            let request = WaitJobsRequest {
                selection: JobSelection {
                    clusters: vec![cluster],
                    ..Default::default()
                },
            };
            let mut news = BatchClient::new(channel)
                .wait_jobs(request)
                .await?
                .into_inner();
            let (mut done, mut failed, mut total) = (0_u64, 0_u64, 0_u64);
            while let Some(event) = news.message().await? {
                total += u64::from(event.total.unwrap_or(0));
                done += u64::from(event.ended_before.unwrap_or(0));
                failed += u64::from(event.failed_before.unwrap_or(0));
                for job in &event.ended {
                    done += 1;
                    failed += u64::from(!job.success);
                    teller.send(Heard::Progress { what, done, total }).await?;
                }
            }
            ensure!(failed == 0, "{failed} of {total} jobs of {file} failed");
            ensure!(
                done == total,
                "{done} of {total} jobs of {file} were heard to end"
            );
            Ok(done)
        })
        .await
}

/// The number after "cluster" in `50 job(s) submitted to cluster 1.`
fn cluster_of(printed: &str) -> Option<u32> {
    let (_, rest) = printed.rsplit_once("cluster ")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::cluster_of;

    #[test]
    fn the_cluster_is_read_from_what_submit_prints() {
        assert_eq!(cluster_of("50 job(s) submitted to cluster 12.\n"), Some(12));
        assert_eq!(cluster_of("nothing"), None);
    }
}
