//! The executor API over gRPC: one stream in either direction.

use allotment_proto::allot::executor_server::Executor;
use allotment_proto::executor::{Call, Event, call};
use futures_util::stream::{self, BoxStream};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status, Streaming};

use super::executor_http::bearer;
use super::executors::{CallError, Events, ExecutorDoor};
use crate::core::CallRefusal;

#[tonic::async_trait]
impl Executor for ExecutorDoor {
    type ConnectStream = BoxStream<'static, Result<Event, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<Call>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let token = request.metadata().get("authorization");
        let token = token.and_then(|value| bearer(value.to_str().ok()?));
        let mut calls = request.into_inner();
        let first = calls.message().await?;
        let first = first.filter(|call| call.r#type() == call::Type::Subscribe);
        let first =
            first.ok_or_else(|| Status::invalid_argument("the first call must be SUBSCRIBE"))?;
        let events = self.call(token.clone(), first).await.map_err(status)?;
        let events = events.ok_or_else(|| Status::internal("a subscription without events"))?;
        let (over, ended) = oneshot::channel();
        let door = self.clone();
        tokio::spawn(async move {
            let end = pass_on(&door, token, calls).await;
            let _ = over.send(end);
        });
        let events = stream::unfold(Some((events, ended)), |open| async move {
            let (events, ended) = open?;
            next(events, ended).await
        });
        Ok(Response::new(Box::pin(events)))
    }
}

type Open = (Events, oneshot::Receiver<Option<Status>>);

async fn next(
    mut events: Events,
    mut ended: oneshot::Receiver<Option<Status>>,
) -> Option<(Result<Event, Status>, Option<Open>)> {
    tokio::select! {
        event = events.next() => Some((Ok(event?), Some((events, ended)))),
        end = &mut ended => Some((Err(end.ok().flatten()?), None)),
    }
}

/// Passes calls on until there are no more, or one is refused: why.
async fn pass_on(
    door: &ExecutorDoor,
    token: Option<String>,
    mut calls: Streaming<Call>,
) -> Option<Status> {
    while let Ok(Some(call)) = calls.message().await {
        if call.r#type() == call::Type::Subscribe {
            let text = "this stream is subscribed already; subscribe again on a new one";
            return Some(Status::failed_precondition(text));
        }
        match door.call(token.clone(), call).await {
            // Without an acknowledgement the executor says it again later.
            Ok(_) | Err(CallError::Refused(CallRefusal::TooMany(_))) => {}
            Err(error) => return Some(status(error)),
        }
    }
    None
}

fn status(error: CallError) -> Status {
    let text = error.to_string();
    match error {
        CallError::Stopping => Status::unavailable(text),
        CallError::Refused(refusal) => match refusal {
            CallRefusal::Unauthorized(_) => Status::unauthenticated(text),
            CallRefusal::Invalid(_) => Status::invalid_argument(text),
            CallRefusal::Forbidden(_) => Status::permission_denied(text),
            CallRefusal::TooMany(_) => Status::resource_exhausted(text),
        },
    }
}
