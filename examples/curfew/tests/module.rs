//! The example keeps to what every module must, and does what it is for.

#![expect(
    clippy::unwrap_used,
    reason = "a test may stop at what it did not expect"
)]

use allotment_allocator::{AgentSpec, Allocator, FrameworkSpec, RoleSpec, conformance};
use allotment_example_curfew::{Curfew, Rules};
use allotment_proto::allot::GetClusterRequest;
use allotment_proto::allot::operator_client::OperatorClient;
use allotment_types::{AgentId, FrameworkId, Role, Timestamp};

fn rules(roles: &str) -> Rules {
    Rules::parse(&format!(
        r#"{{"roles": [{roles}], "from_hour": 8, "to_hour": 20}}"#
    ))
    .unwrap()
}

fn hour(hour: u64) -> Timestamp {
    Timestamp::from_secs(20_000 * 24 * 3600 + hour * 3600)
}

#[test]
fn it_keeps_to_the_laws_of_every_module() {
    conformance::check(|| Box::new(Curfew::new(rules("\"nobody\""))));
}

#[test]
fn a_role_under_curfew_is_offered_nothing_until_it_ends() {
    let mut module = Curfew::new(rules("\"batch\""));
    let (framework, agent) = (
        FrameworkId::parse("F1").unwrap(),
        AgentId::parse("A1").unwrap(),
    );
    let spec = FrameworkSpec {
        roles: [(Role::parse("batch").unwrap(), RoleSpec::default())].into(),
        ..FrameworkSpec::default()
    };
    module.add_framework(&framework, spec);
    let agent_spec = AgentSpec {
        total: "cpus:4; mem:1024".parse().unwrap(),
        ..AgentSpec::default()
    };
    module.add_agent(&agent, agent_spec);
    assert!(module.allocate(hour(9)).allocations.is_empty());
    assert_eq!(module.next_deadline(), Some(hour(20)));
    module.revive(&framework, &std::collections::BTreeSet::new());
    assert!(module.allocate(hour(10)).allocations.is_empty());
    assert_eq!(module.allocate(hour(20)).allocations.len(), 1);
}

#[test]
fn hours_that_make_no_curfew_are_refused_with_both() {
    let refused = Rules::parse(r#"{"roles": [], "from_hour": 20, "to_hour": 8}"#).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "from_hour 20 must be before to_hour 8, and that at most 24"
    );
    assert!(Rules::parse(r#"{"roles": [], "form_hour": 1, "to_hour": 8}"#).is_err());
}

#[tokio::test]
async fn a_master_with_the_module_serves_in_a_few_lines() {
    let folder = tempfile::tempdir().unwrap();
    let config = allotment_master::Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        data_dir: folder.path().to_owned(),
        ..allotment_master::Config::default()
    };
    let rules = rules("\"batch\"");
    let master = allotment_master::start_with(config, move || Box::new(Curfew::new(rules.clone())))
        .await
        .unwrap();
    let channel = tonic::transport::Channel::from_shared(master.url().to_owned())
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut operator = OperatorClient::new(channel);
    let answer = operator.get_cluster(GetClusterRequest {}).await.unwrap();
    assert_eq!(answer.into_inner().agents, 0);
    master.stop().await;
}
