//! Compiles the .proto files without a system `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "mesos/v1/mesos.proto",
        "mesos/v1/scheduler.proto",
        "mesos/v1/executor.proto",
        "mesos/v1/agent.proto",
        "allot/v1/demand.proto",
        "allot/v1/subscription.proto",
        "allot/v1/task.proto",
        "allot/v1/scheduler.proto",
        "allot/v1/agent.proto",
        "allot/v1/executor.proto",
        "allot/v1/checkpoint.proto",
        "allot/v1/sandbox.proto",
        "allot/v1/containers.proto",
        "allot/v1/batch.proto",
        "allot/v1/store.proto",
        "allot/v1/operator.proto",
        "allot/v1/masters.proto",
    ];
    for file in files {
        println!("cargo::rerun-if-changed=proto/{file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    // Views that the command line prints as JSON and YAML.
    let printed = [
        "AgentView",
        "ClusterEvent",
        "ClusterView",
        "FrameworkView",
        "InverseAnswer",
        "JobClusterView",
        "JobVariable",
        "JobView",
        "MasterStatus",
        "MasterView",
        "RangesView",
        "ResourcesView",
        "RoleView",
        "SandboxEntry",
        "ScalarView",
        "TaskView",
        "WhyJobResponse",
        "WhyResponse",
    ];
    let mut config = tonic_prost_build::configure()
        .build_transport(false)
        .bytes(".")
        // Maps in a fixed order, as everything whose order a decision could see.
        .btree_map(".")
        // Rare, and large: masters hold and move tasks and resources by the hundred thousand.
        .boxed(".allot.v1.Launch.group_executor")
        .boxed(".mesos.v1.Resource.disk")
        .boxed(".mesos.v1.Resource.reservation")
        .boxed(".mesos.v1.TaskInfo.executor")
        .boxed(".mesos.v1.TaskInfo.container")
        .boxed(".mesos.v1.TaskInfo.health_check")
        .boxed(".mesos.v1.TaskInfo.check")
        .boxed(".mesos.v1.TaskInfo.discovery")
        // Most calls and events are of single tasks.
        .boxed(".mesos.v1.scheduler.Call.subscribe")
        .boxed(".mesos.v1.scheduler.Call.accept_inverse_offers")
        .boxed(".mesos.v1.scheduler.Call.decline_inverse_offers")
        .boxed(".mesos.v1.scheduler.Call.kill")
        .boxed(".mesos.v1.scheduler.Call.shutdown")
        .boxed(".mesos.v1.scheduler.Call.message")
        .boxed(".mesos.v1.scheduler.Call.request")
        .boxed(".mesos.v1.scheduler.Call.update_framework")
        .boxed(".mesos.v1.scheduler.Event.subscribed")
        .boxed(".mesos.v1.scheduler.Event.update_operation_status")
        .boxed(".mesos.v1.scheduler.Event.message")
        .boxed(".mesos.v1.scheduler.Event.failure")
        .boxed(".mesos.v1.scheduler.Event.call_rejected");
    for message in printed {
        config =
            config.message_attribute(format!("allot.v1.{message}"), "#[derive(serde::Serialize)]");
    }
    let mut named = prost_build::Config::new();
    named.enable_type_names();
    embed(&descriptors)?;
    config.compile_fds_with_config(descriptors, named)?;
    Ok(())
}

/// What `json` reflects on: the descriptors without their comments.
fn embed(descriptors: &prost_types::FileDescriptorSet) -> Result<(), Box<dyn std::error::Error>> {
    let mut bare = descriptors.clone();
    for file in &mut bare.file {
        file.source_code_info = None;
    }
    let folder = std::env::var("OUT_DIR")?;
    let file = std::path::Path::new(&folder).join("descriptors.bin");
    std::fs::write(file, prost::Message::encode_to_vec(&bare))?;
    Ok(())
}
