//! Several masters, of which one leads: an agent finds it wherever it stands in its list, whatever
//! became of those before it.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::time::Duration;

use allotment_proto::allot;
use allotment_proto::allot::masters_server::{Masters, MastersServer};
use support::{Master, Mode, config};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio_stream::Empty;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

/// What a master says when it is asked who leads.
#[derive(Debug, Clone, Default, PartialEq)]
struct View {
    here: bool,
    leader: Option<String>,
    /// Whom it names once the agent says that the other one is not to be found.
    next: Option<String>,
    term: u64,
}

impl View {
    fn leads(term: u64) -> Self {
        Self {
            here: true,
            term,
            ..Self::default()
        }
    }

    fn follows(leader: &str, term: u64) -> Self {
        Self {
            leader: Some(leader.to_owned()),
            term,
            ..Self::default()
        }
    }
}

struct Desk(watch::Receiver<View>);

impl Desk {
    fn routes(view: watch::Receiver<View>) -> Routes {
        Routes::new(MastersServer::new(Self(view)))
    }
}

fn not_asked<T>() -> Result<T, Status> {
    Err(Status::internal("agents do not ask this"))
}

#[tonic::async_trait]
impl Masters for Desk {
    type BackupStream = Empty<Result<allot::BackupChunk, Status>>;

    async fn get_leader(
        &self,
        request: Request<allot::GetLeaderRequest>,
    ) -> Result<Response<allot::GetLeaderResponse>, Status> {
        let view = self.0.borrow().clone();
        let in_vain = request.into_inner().unlike;
        let leader = if in_vain.is_some() && in_vain == view.leader {
            view.next
        } else {
            view.leader
        };
        Ok(Response::new(allot::GetLeaderResponse {
            leader,
            here: view.here,
            cluster_id: "test".to_owned(),
            term: view.term,
            spread_seconds: 0.0,
        }))
    }

    async fn get_status(
        &self,
        _: Request<allot::GetMasterStatusRequest>,
    ) -> Result<Response<allot::MasterStatus>, Status> {
        not_asked()
    }

    async fn join(
        &self,
        _: Request<allot::JoinRequest>,
    ) -> Result<Response<allot::JoinResponse>, Status> {
        not_asked()
    }

    async fn change(
        &self,
        _: Request<allot::ChangeMastersRequest>,
    ) -> Result<Response<allot::ChangeMastersResponse>, Status> {
        not_asked()
    }

    type DeliverStream = tokio_stream::Empty<Result<allot::RaftFrame, Status>>;

    async fn deliver(
        &self,
        _: Request<Streaming<allot::RaftFrame>>,
    ) -> Result<Response<Self::DeliverStream>, Status> {
        not_asked()
    }

    async fn backup(
        &self,
        _: Request<allot::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        not_asked()
    }
}

async fn leader() -> (Master, watch::Sender<View>) {
    let (view, sees) = watch::channel(View::leads(1));
    (Master::start_with(Desk::routes(sees)).await, view)
}

/// A master that follows whomever `view` names.
async fn follower(view: watch::Receiver<View>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tonic::transport::Server::builder().add_routes(Desk::routes(view));
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    url
}

/// An address where nobody listens.
async fn dead() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// An address that answers no SYN, as that of a machine without power does: the kernel drops what
/// a full queue of connections has no room for.
struct BlackHole {
    url: String,
    _listener: TcpListener,
    _waiting: Vec<TcpStream>,
}

impl BlackHole {
    async fn open() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(0).unwrap();
        let at = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        // The first that is not let in shows that no other will be.
        let span = Duration::from_millis(300);
        while let Ok(connected) = tokio::time::timeout(span, TcpStream::connect(at)).await {
            waiting.push(connected.unwrap());
        }
        Self {
            url: format!("http://{at}"),
            _listener: listener,
            _waiting: waiting,
        }
    }
}

/// An agent with these masters registers with this one of them.
async fn registers(mut leader: Master, masters: Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(Mode::Plain, "", folder.path().join("agent"));
    config.masters = masters;
    config.reconnect_min = Duration::from_millis(1);
    let agent = allotment_agent::start(config).await.unwrap();
    leader.registration().await;
    agent.stop().await;
}

/// The leader at each place of a list of three, the others as they are.
async fn wherever_it_stands<F>(others: impl AsyncFn(&str) -> F, urls: impl Fn(&F) -> [String; 2]) {
    let mut agents = tokio::task::JoinSet::new();
    let mut kept = Vec::new();
    for place in 0..3 {
        let (leader, view) = leader().await;
        let two = others(&leader.url).await;
        let mut masters = urls(&two).to_vec();
        masters.insert(place, leader.url.clone());
        kept.push((two, view));
        agents.spawn(registers(leader, masters));
    }
    while let Some(agent) = agents.join_next().await {
        agent.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_masters_are_passed_over() {
    wherever_it_stands(async |_| [dead().await, dead().await], Clone::clone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn masters_on_machines_that_are_gone_are_passed_over() {
    let gone = async |_: &str| [BlackHole::open().await, BlackHole::open().await];
    wherever_it_stands(gone, |two| two.each_ref().map(|hole| hole.url.clone())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_name_the_leader() {
    let followers = async |leader: &str| {
        let (view, sees) = watch::channel(View::follows(leader, 1));
        (view, [follower(sees.clone()).await, follower(sees).await])
    };
    wherever_it_stands(followers, |(_, urls)| urls.clone()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_names_a_leader_who_is_gone_is_asked_for_the_next_one() {
    let gone = BlackHole::open().await;
    let (next, _next_view) = leader().await;
    let (_view, sees) = watch::channel(View {
        next: Some(next.url.clone()),
        ..View::follows(&gone.url, 1)
    });
    let masters = vec![follower(sees).await, gone.url.clone()];
    registers(next, masters).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_leader_is_gone_finds_the_next_one_past_a_machine_without_power() {
    for place in 0..3 {
        let folder = tempfile::tempdir().unwrap();
        let (mut old, old_view) = leader().await;
        let (mut next, next_view) = leader().await;
        next_view.send_replace(View::default());
        let gone = BlackHole::open().await;
        let mut masters = vec![old.url.clone(), next.url.clone()];
        masters.insert(place, gone.url.clone());
        let mut config = config(Mode::Plain, "", folder.path().join("agent"));
        config.masters = masters;
        config.reconnect_min = Duration::from_millis(1);
        let agent = allotment_agent::start(config).await.unwrap();
        old.registration().await;
        // It follows now, and knows whom.
        old_view.send_replace(View::follows(&next.url, 2));
        next_view.send_replace(View::leads(2));
        old.cut();
        next.registration().await;
        agent.stop().await;
    }
}

/// An agent whose leader named this heir loses its stream; then the leader is of that view. It
/// registers with the one that is given, or with its old leader.
async fn bereft(heir: &str, others: &[&str], then: View, with: Option<Master>) {
    let folder = tempfile::tempdir().unwrap();
    let (mut old, view) = leader().await;
    old.name_heir(heir);
    let mut config = config(Mode::Plain, "", folder.path().join("agent"));
    config.masters = vec![old.url.clone()];
    config
        .masters
        .extend(others.iter().map(ToString::to_string));
    config.reconnect_min = Duration::from_millis(1);
    let agent = allotment_agent::start(config).await.unwrap();
    old.registration().await;
    view.send_replace(then);
    old.cut();
    with.unwrap_or(old).registration().await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_heir_of_a_lost_leader_is_asked_though_no_list_names_it() {
    let (heir, _view) = leader().await;
    let url = heir.url.clone();
    bereft(&url, &[], View::default(), Some(heir)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_leads_on_is_found_again_although_its_heir_says_nothing() {
    let hole = BlackHole::open().await;
    bereft(&hole.url, &[], View::leads(1), None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_heir_that_is_gone_too_leaves_the_list() {
    let (hole, gone) = (BlackHole::open().await, dead().await);
    for heir in [&hole.url, &gone] {
        let (next, view) = leader().await;
        view.send_replace(View::leads(2));
        let url = next.url.clone();
        bereft(heir, &[&url], View::default(), Some(next)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_heir_that_was_not_elected_sends_agents_to_the_master_that_was() {
    let (heir, _heir_view) = leader().await;
    let (elected, view) = leader().await;
    view.send_replace(View::leads(2));
    heir.name_leader(&elected.url);
    bereft(&heir.url, &[], View::default(), Some(elected)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_heir_that_names_a_master_who_is_gone_too_leaves_the_list() {
    let (heir, _heir_view) = leader().await;
    heir.name_leader(&dead().await);
    let (next, view) = leader().await;
    view.send_replace(View::leads(2));
    let url = next.url.clone();
    bereft(&heir.url, &[&url], View::default(), Some(next)).await;
}
