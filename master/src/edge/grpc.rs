//! The gRPC services: bytes to inputs, effects to bytes.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use allotment_proto::allot::agent_server::{Agent, AgentServer};
use allotment_proto::allot::operator_server::{Operator, OperatorServer};
use allotment_proto::allot::scheduler_server::{Scheduler, SchedulerServer};
use allotment_proto::allot::store_server::StoreServer;
use allotment_proto::session::{HEIR, LOST, OF_CLUSTER, SPREAD};
use allotment_proto::{MESSAGE_LEN_MAX, allot, scheduler};
use futures_util::{Stream, StreamExt};
use prost::Message as _;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tonic::{Code, Request as Wire, Response, Status, Streaming};

use super::masters::{Desk, decided, not_leading, text};
use super::outbox::{Bound, Outgoing, outbox};
use super::replica::{Credentials, RETURNS_PER_SEC, View};
use super::turn::Event;
use crate::core::{ConnId, Input, Refusal, Reply, Request};

/// A door to the loop, one for all services. It is open while this master leads.
#[derive(Debug, Clone)]
pub(super) struct Door {
    pub(super) events: mpsc::Sender<Event>,
    next_conn: Arc<AtomicU64>,
    view: watch::Receiver<View>,
    address: Arc<str>,
    cluster: Arc<str>,
    departures: Arc<Departures>,
}

/// Agents that waited here in vain leave one after the other: all of them go to the master that was
/// elected instead, and should not arrive there in one instant.
#[derive(Debug, Default)]
struct Departures(Mutex<Option<Instant>>);

impl Departures {
    /// When the next one may leave.
    fn next(&self) -> Instant {
        let mut latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        // Evenly, and so twice as fast as those may come who draw their time.
        let free = latest.map(|at| at + Duration::from_secs(1) / (2 * RETURNS_PER_SEC));
        let at = free.map_or(now, |free| free.max(now));
        *latest = Some(at);
        at
    }
}

/// The longest that an agent waits here for this master to lead: some elections.
const AWAITED: Duration = Duration::from_secs(3);

/// How long an answer waits for the first message beside it.
const FIRST_WORD: Duration = Duration::from_secs(1);

pub(super) fn stopping() -> Status {
    Status::unavailable("the master is stopping; connect again")
}

impl Door {
    pub(super) fn new(
        events: mpsc::Sender<Event>,
        view: watch::Receiver<View>,
        credentials: &Credentials,
    ) -> Self {
        Self {
            events,
            next_conn: Arc::new(AtomicU64::new(0)),
            view,
            address: credentials.address.as_str().into(),
            cluster: credentials.cluster_id.as_str().into(),
            departures: Arc::default(),
        }
    }

    /// Agents that lost their leader wait until this master leads, so that they are all here when
    /// it does, and what they say of their tasks, too.
    async fn open_soon(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let lost = text(metadata, LOST);
        if lost.is_empty() {
            return self.open();
        }
        let cluster = text(metadata, OF_CLUSTER);
        if cluster != &*self.cluster {
            let shown: String = cluster.chars().take(100).collect();
            return Err(Status::failed_precondition(format!(
                "the agent belongs to cluster {shown:?}, this master to {}; check the agent's --master",
                self.cluster
            )));
        }
        let view = decided(&self.view, &self.address, lost, AWAITED).await;
        if !view.leading {
            tokio::time::sleep_until(self.departures.next()).await;
        }
        self.open()
    }

    /// What an agent should know for the day on which this master is lost.
    fn succession(&self) -> MetadataMap {
        let view = self.view.borrow();
        let mut metadata = MetadataMap::new();
        let mut tell = |name, value: String| {
            // Addresses and numbers are ASCII.
            if let Ok(value) = value.parse() {
                metadata.insert(name, value);
            }
        };
        if let Some(heir) = &view.heir {
            tell(HEIR, heir.clone());
            tell(SPREAD, view.spread_seconds().to_string());
        }
        metadata
    }

    /// Who leads, when this master does not: `host:port`, if it is known.
    pub(super) fn leader_elsewhere(&self) -> Option<Option<String>> {
        let view = self.view.borrow();
        (!view.leading).then(|| view.leader.clone())
    }

    /// Nothing is taken in, and so nothing is done, by a master that does not lead.
    pub(super) fn open(&self) -> Result<(), Status> {
        match self.leader_elsewhere() {
            Some(leader) => Err(not_leading(leader.as_deref())),
            None => Ok(()),
        }
    }

    pub(super) fn routes(self, desk: Desk) -> Routes {
        // Peers may send large calls; replies are bounded by what the core makes.
        Routes::new(desk.server())
            .add_service(
                SchedulerServer::new(self.clone()).max_decoding_message_size(MESSAGE_LEN_MAX),
            )
            .add_service(AgentServer::new(self.clone()).max_decoding_message_size(MESSAGE_LEN_MAX))
            .add_service(OperatorServer::new(self.clone()))
            .add_service(StoreServer::new(self).max_decoding_message_size(MESSAGE_LEN_MAX))
    }

    fn conn(&self) -> ConnId {
        ConnId(self.next_conn.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) async fn ask(&self, request: Request) -> Result<Reply, Status> {
        self.open()?;
        let (answer, answered) = oneshot::channel();
        let event = Event::Ask(request, answer);
        self.events.send(event).await.map_err(|_| stopping())?;
        let reply = answered.await.map_err(|_| stopping())?;
        reply.map_err(refused)
    }

    async fn change_agent(&self, request: Request) -> Result<Response<allot::AgentView>, Status> {
        match self.ask(request).await? {
            Reply::Agent(agent) => Ok(Response::new(*agent)),
            _ => Err(mismatch()),
        }
    }

    /// Reads from a peer until it or our side ends the stream.
    fn read<T: Send + 'static>(
        &self,
        mut from: Streaming<T>,
        mut dead: oneshot::Receiver<()>,
        said: impl Fn(T) -> Input + Send + 'static,
        closed: Input,
    ) {
        let events = self.events.clone();
        tokio::spawn(async move {
            loop {
                let message = tokio::select! {
                    message = from.message() => message,
                    _ = &mut dead => break,
                };
                let Ok(Some(message)) = message else {
                    break;
                };
                let event = Event::Input(Box::new(said(message)));
                if events.send(event).await.is_err() {
                    return;
                }
            }
            // When the loop is gone there is nobody left to tell.
            let _ = events.send(Event::Input(Box::new(closed))).await;
        });
    }
}

/// A refusal of the core as gRPC says it.
pub(super) fn refused(refusal: Refusal) -> Status {
    match refusal {
        Refusal::NotFound(message) => Status::not_found(message),
        Refusal::Invalid(message) => Status::invalid_argument(message),
        Refusal::Precondition(message) => Status::failed_precondition(message),
        Refusal::Conflict(conflict) => {
            let details = conflict.encode_to_vec().into();
            let message = Refusal::Conflict(conflict).to_string();
            Status::with_details(Code::Aborted, message, details)
        }
        Refusal::Exhausted(message) => Status::resource_exhausted(message),
    }
}

/// The core gave an answer of another kind than was asked for.
pub(super) fn mismatch() -> Status {
    Status::internal("the master's answer does not fit the request; this is a bug")
}

#[tonic::async_trait]
impl Scheduler for Door {
    type ConnectStream = Outgoing<scheduler::Event>;

    async fn connect(
        &self,
        request: Wire<Streaming<scheduler::Call>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        self.open()?;
        let conn = self.conn();
        let (outbox, outgoing, dead) = outbox(Bound::PEER);
        let opened = Event::Framework(conn, outbox);
        self.events.send(opened).await.map_err(|_| stopping())?;
        let said = move |call| Input::FrameworkCall { conn, call };
        let closed = Input::FrameworkClosed { conn };
        self.read(request.into_inner(), dead, said, closed);
        Ok(Response::new(outgoing))
    }
}

#[tonic::async_trait]
impl Agent for Door {
    type ConnectStream = Outgoing<allot::MasterMessage>;

    async fn connect(
        &self,
        request: Wire<Streaming<allot::AgentMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        self.open_soon(request.metadata()).await?;
        let conn = self.conn();
        let (outbox, outgoing, dead) = outbox(Bound::PEER);
        let opened = Event::Agent(conn, outbox);
        self.events.send(opened).await.map_err(|_| stopping())?;
        let said = move |message| Input::AgentMessage { conn, message };
        let closed = Input::AgentClosed { conn };
        self.read(request.into_inner(), dead, said, closed);
        // An agent registers at once: with its answer the headers are one packet, not two.
        let _ = tokio::time::timeout(FIRST_WORD, outgoing.begun()).await;
        let mut response = Response::new(outgoing);
        *response.metadata_mut() = self.succession();
        Ok(response)
    }
}

pub(super) type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Operator for Door {
    async fn get_cluster(
        &self,
        _: Wire<allot::GetClusterRequest>,
    ) -> Result<Response<allot::ClusterView>, Status> {
        match self.ask(Request::GetCluster).await? {
            Reply::Cluster(view) => Ok(Response::new(view)),
            _ => Err(mismatch()),
        }
    }

    async fn list_agents(
        &self,
        _: Wire<allot::ListAgentsRequest>,
    ) -> Result<Response<allot::ListAgentsResponse>, Status> {
        match self.ask(Request::ListAgents).await? {
            Reply::Agents(agents) => Ok(Response::new(allot::ListAgentsResponse { agents })),
            _ => Err(mismatch()),
        }
    }

    async fn list_frameworks(
        &self,
        _: Wire<allot::ListFrameworksRequest>,
    ) -> Result<Response<allot::ListFrameworksResponse>, Status> {
        match self.ask(Request::ListFrameworks).await? {
            Reply::Frameworks(frameworks) => {
                Ok(Response::new(allot::ListFrameworksResponse { frameworks }))
            }
            _ => Err(mismatch()),
        }
    }

    async fn list_tasks(
        &self,
        request: Wire<allot::ListTasksRequest>,
    ) -> Result<Response<allot::ListTasksResponse>, Status> {
        match self.ask(Request::ListTasks(request.into_inner())).await? {
            Reply::Tasks(tasks) => Ok(Response::new(allot::ListTasksResponse { tasks })),
            _ => Err(mismatch()),
        }
    }

    async fn list_roles(
        &self,
        _: Wire<allot::ListRolesRequest>,
    ) -> Result<Response<allot::ListRolesResponse>, Status> {
        match self.ask(Request::ListRoles).await? {
            Reply::Roles(roles) => Ok(Response::new(allot::ListRolesResponse { roles })),
            _ => Err(mismatch()),
        }
    }

    async fn kill_task(
        &self,
        request: Wire<allot::KillTaskRequest>,
    ) -> Result<Response<allot::KillTaskResponse>, Status> {
        self.ask(Request::KillTask(request.into_inner())).await?;
        Ok(Response::new(allot::KillTaskResponse {}))
    }

    async fn remove_framework(
        &self,
        request: Wire<allot::RemoveFrameworkRequest>,
    ) -> Result<Response<allot::RemoveFrameworkResponse>, Status> {
        let request = Request::RemoveFramework(request.into_inner());
        self.ask(request).await?;
        Ok(Response::new(allot::RemoveFrameworkResponse {}))
    }

    async fn set_weight(
        &self,
        request: Wire<allot::SetWeightRequest>,
    ) -> Result<Response<allot::RoleView>, Status> {
        match self.ask(Request::SetWeight(request.into_inner())).await? {
            Reply::Role(role) => Ok(Response::new(*role)),
            _ => Err(mismatch()),
        }
    }

    async fn set_quota(
        &self,
        request: Wire<allot::SetQuotaRequest>,
    ) -> Result<Response<allot::SetQuotaResponse>, Status> {
        match self.ask(Request::SetQuota(request.into_inner())).await? {
            Reply::Quota(set) => Ok(Response::new(*set)),
            _ => Err(mismatch()),
        }
    }

    async fn set_agent(
        &self,
        request: Wire<allot::SetAgentRequest>,
    ) -> Result<Response<allot::AgentView>, Status> {
        self.change_agent(Request::SetAgent(request.into_inner()))
            .await
    }

    async fn set_maintenance(
        &self,
        request: Wire<allot::SetMaintenanceRequest>,
    ) -> Result<Response<allot::AgentView>, Status> {
        let request = Request::SetMaintenance(request.into_inner());
        self.change_agent(request).await
    }

    async fn reserve(
        &self,
        request: Wire<allot::ReserveRequest>,
    ) -> Result<Response<allot::AgentView>, Status> {
        self.change_agent(Request::Reserve(request.into_inner()))
            .await
    }

    async fn unreserve(
        &self,
        request: Wire<allot::ReserveRequest>,
    ) -> Result<Response<allot::AgentView>, Status> {
        self.change_agent(Request::Unreserve(request.into_inner()))
            .await
    }

    async fn why(
        &self,
        request: Wire<allot::WhyRequest>,
    ) -> Result<Response<allot::WhyResponse>, Status> {
        match self.ask(Request::Why(request.into_inner())).await? {
            Reply::Why(why) => Ok(Response::new(why)),
            _ => Err(mismatch()),
        }
    }

    type EventsStream = BoxStream<allot::ClusterEvent>;

    async fn events(
        &self,
        request: Wire<allot::EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        self.open()?;
        let (outbox, outgoing, _) = outbox(Bound::WATCHER);
        let watch = Event::Watch(request.into_inner(), outbox);
        self.events.send(watch).await.map_err(|_| stopping())?;
        let events = outgoing.map(|event| event.map(Arc::unwrap_or_clone));
        Ok(Response::new(Box::pin(events)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_that_waited_in_vain_leave_one_after_the_other() {
        let departures = Departures::default();
        let first = departures.next();
        let last = (0..20_000).map(|_| departures.next()).last();
        assert!(last >= Some(first + Duration::from_secs(1)));
    }
}
