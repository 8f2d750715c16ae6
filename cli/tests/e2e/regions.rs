//! Regions and zones, and what an operator tells the allocation module by flags.

use allotment_framework_sdk::{Capability, Event};
use std::collections::BTreeMap;

use crate::common::{Process, allot, eventually, folder, text};
use crate::framework::Framework;

/// By host name: what was offered of it, and where it says it stands.
fn offered(framework: &mut Framework, n: usize) -> BTreeMap<String, (String, String)> {
    let mut seen = BTreeMap::new();
    framework.hear(&format!("offers of {n} agents"), |event| {
        if let Event::Offers(offers) = event {
            for offer in offers {
                let domain = offer.domain.as_ref().map(ToString::to_string);
                let said = (offer.resources.to_string(), domain.unwrap_or_default());
                seen.insert(offer.hostname.clone(), said);
            }
        }
        (seen.len() >= n).then_some(())
    });
    seen
}

#[test]
fn agents_of_another_region_are_offered_to_region_aware_frameworks_alone() {
    let folder = folder();
    let mut master = Process::start(&[
        "master",
        "--port=0",
        "--data",
        text(&folder.path().join("master")),
        "--domain=eu/zone-1",
        "--min-allocatable-resources=cpus:2",
        "--fair-sharing-excluded-resource-names=gpus",
    ]);
    let url = master.ready("master");
    let agents = [
        ("near", "--domain=eu/zone-2", "--resources=cpus:4;mem:512"),
        ("far", "--domain=us/zone-9", "--resources=cpus:4;mem:512"),
        ("small", "--domain=eu/zone-2", "--resources=cpus:1;mem:512"),
    ];
    let agents: Vec<Process> = agents
        .into_iter()
        .map(|(name, domain, resources)| {
            let hostname = format!("--hostname={name}");
            let work_dir = folder.path().join(name);
            let mut agent = Process::start(&[
                "agent",
                "--port=0",
                "--advertise=127.0.0.1",
                &hostname,
                "--master",
                &url,
                "--work-dir",
                text(&work_dir),
                domain,
                resources,
                "--tasks-end-with-agent",
            ]);
            agent.ready("agent");
            agent
        })
        .collect();
    eventually("three agents", || {
        let listed = allot(&["--master", &url, "-o", "json", "node", "list"]).json();
        (listed.as_array()?.len() == 3).then_some(())
    });

    let mut plain = Framework::subscribe(&url, "plain");
    let near = ("cpus:4; mem:512".to_owned(), "eu/zone-2".to_owned());
    assert_eq!(
        offered(&mut plain, 1),
        BTreeMap::from([("near".to_owned(), near)])
    );
    let why = allot(&["--master", &url, "why", plain.id.as_str()]).ok();
    assert!(why.contains("region us"), "{why}");
    assert!(why.contains("less left than the smallest offer"), "{why}");

    let mut aware = Framework::subscribe_with(&url, "aware", |config| {
        config.capabilities.insert(Capability::RegionAware);
    });
    let far = ("cpus:4; mem:512".to_owned(), "us/zone-9".to_owned());
    assert_eq!(
        offered(&mut aware, 1),
        BTreeMap::from([("far".to_owned(), far)])
    );

    let shown = allot(&["--master", &url, "node", "show", "far"]).ok();
    assert!(shown.contains("us/zone-9"), "{shown}");
    drop(agents);
}

#[test]
fn a_domain_without_a_zone_is_refused_in_words() {
    for role in ["master", "agent"] {
        let refused = allot(&[role, "--port=0", "--domain=eu"]);
        assert_eq!(refused.code, 2, "{}", refused.stderr);
        assert!(refused.stderr.contains("region/zone"), "{}", refused.stderr);
    }
}
