//! A function as the service of one gRPC method, so that a server needs no generated code.

use std::future::Future;
use std::pin::Pin;

use tonic::codegen::{Context, Poll, Service};
use tonic::{Request, Response, Status};

/// The function; it is called for each request.
pub(crate) struct GrpcMethod<F>(pub(crate) F);

impl<F, A, Asked, Answered> Service<Request<Asked>> for GrpcMethod<F>
where
    F: FnMut(Request<Asked>) -> A,
    A: Future<Output = Result<Response<Answered>, Status>> + Send + 'static,
{
    type Response = Response<Answered>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Asked>) -> Self::Future {
        Box::pin((self.0)(request))
    }
}
