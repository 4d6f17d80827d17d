//! The faults of a script at work in a server.
//!
//! In: calls on their way to the server, batches, and rows. Out: the same, with the faults in them.

use std::path::Path;
use std::sync::Arc;

use axum::body;
use axum::extract::Request;
use axum::http::header;
use axum::middleware::Next;
use axum::response::Response;
use serde_json::Value;

use super::batch_faults::{self, BatchFault};
use super::request_faults::InterceptedCall;
use super::row_injector::RowInjector;
use super::script::{Fault, Faults, Rule};
use super::state::FaultState;
use super::trigger::Trigger;
use super::view_faults::{View, ViewFault};
use crate::serve::background::Background;
use crate::serve::store::Store;
use crate::serve::store::batch::Batch;
use crate::serve::surfaces::surface::Surface;
use crate::storage::durable::FileError;

pub(crate) use super::request_faults::Call;
pub(crate) use super::state::FaultNames;

/// Most bytes of an answer about batches that faults can be put into.
const VIEW_BYTES: usize = 256 << 20;

/// See the module.
#[derive(Debug)]
pub(crate) struct FaultInjector {
    rules: Vec<Rule>,
    state: FaultState,
    store: Arc<Store>,
    surface: &'static dyn Surface,
    background: Background,
}

impl FaultInjector {
    /// Puts `faults` to work in the server of `directory`.
    pub(crate) fn open(
        faults: Faults,
        seed: u64,
        directory: &Path,
        (store, surface): (&Arc<Store>, &'static dyn Surface),
        background: Background,
    ) -> Result<Self, FileError> {
        let state = FaultState::open(faults.rules.len(), seed, directory, store)?;
        Ok(Self { rules: faults.rules, state, store: store.clone(), surface, background })
    }

    /// Lets a call pass to the server, with the faults that the script has for it.
    pub(crate) async fn pass(&self, call: Call<'_>, request: Request, next: Next) -> Response {
        let (mut request_fault, mut view_faults) = (None, Vec::new());
        for Rule { trigger, fault } in &self.rules {
            match fault {
                Fault::Request(calls, fault)
                    if calls.contain(call.endpoint) && trigger.admits(&self.store, request.uri().path()) =>
                {
                    if let Some(number) = self.state.pick_call(trigger) {
                        request_fault = request_fault.or(Some((trigger, number, fault)));
                    }
                }
                Fault::View(calls, fault)
                    if calls.contain(call.endpoint) && self.state.pick_call(trigger).is_some() =>
                {
                    view_faults.push((trigger, fault));
                }
                _ => {}
            }
        }
        let (connection, names) = (call.connection, call.names);
        let response = match request_fault {
            Some((trigger, number, fault)) => {
                let intercepted = InterceptedCall {
                    call,
                    trigger,
                    number,
                    store: &self.store,
                    state: &self.state,
                    surface: self.surface,
                    background: &self.background,
                };
                fault.act(intercepted, request, next).await
            }
            None => next.run(request).await,
        };
        if view_faults.is_empty() || connection.is_cut() || !response.status().is_success() {
            return response;
        }
        self.change_view(&view_faults, names, response).await
    }

    /// Puts faults into an answer about batches. One that is not JSON stays as it is.
    async fn change_view(&self, faults: &[(&Trigger, &ViewFault)], names: &FaultNames, response: Response) -> Response {
        let (mut parts, body) = response.into_parts();
        let Ok(bytes) = body::to_bytes(body, VIEW_BYTES).await else {
            return Response::from_parts(parts, body::Body::empty());
        };
        let Ok(mut answer) = serde_json::from_slice::<Value>(&bytes) else {
            return Response::from_parts(parts, body::Body::from(bytes));
        };
        let mut strangers = 0;
        for (trigger, fault) in faults {
            let view = View { trigger, store: &self.store, state: &self.state };
            if fault.change(&mut answer, view) {
                names.add(trigger);
            }
            if let ViewFault::ListHuge { entries } = fault
                && !answer.is_object()
            {
                strangers += entries;
            }
        }
        parts.headers.remove(header::CONTENT_LENGTH);
        Response::from_parts(parts, ViewFault::body(&answer, strangers))
    }

    /// The faults in the rows of `batch`.
    pub(crate) fn on_rows<'s>(&'s self, batch: &'s Batch) -> RowInjector<'s> {
        let faults = self.rules.iter().filter_map(|rule| match &rule.fault {
            Fault::Row(fault) if self.state.picks_batch(&rule.trigger, batch.number) => Some((&rule.trigger, fault)),
            _ => None,
        });
        RowInjector::new(&self.state, self.surface.row_form(), batch, faults)
    }

    /// What is said of a batch for which the queue has no room.
    pub(crate) fn full_queue(&self, id: &str) -> Option<String> {
        let batch = self.store.batches.get(id)?;
        match self.on_batch(&batch)? {
            BatchFault::NoRoom { batches } if batch_faults::at_work(&self.store, batch.number) >= *batches => {
                Some(batch_faults::queue_is_full(*batches))
            }
            _ => None,
        }
    }

    /// The fault in the end of `batch`, if one picks it: the first of the script.
    pub(crate) fn on_batch(&self, batch: &Batch) -> Option<&BatchFault> {
        self.batch_rule(batch).map(|(_, fault)| fault)
    }

    /// Logs that [`FaultInjector::on_batch`] acted.
    pub(crate) fn record_on_batch(&self, batch: &Batch) -> Result<(), FileError> {
        self.batch_rule(batch).map_or(Ok(()), |(trigger, _)| self.state.record(trigger, &batch.id, None))
    }

    fn batch_rule(&self, batch: &Batch) -> Option<(&Trigger, &BatchFault)> {
        self.rules.iter().find_map(|rule| match &rule.fault {
            Fault::Batch(fault) if self.state.picks_batch(&rule.trigger, batch.number) => Some((&rule.trigger, fault)),
            _ => None,
        })
    }
}
