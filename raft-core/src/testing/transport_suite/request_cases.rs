//! Requests: answered once, or refused with a word on whether they may have had their effect.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;

use super::{Bench, Case, CaseFuture, Member};
use crate::ports::RequestError;
use crate::testing::random::random_bytes;
use crate::testing::{Random, Rule};
use crate::types::NodeName;

/// Longer than anything here takes; a request that waits for so long is stuck.
const PATIENT: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(300);

pub(super) fn cases() -> Vec<Case> {
    let case = |name, why, fix, source, test| Case { rule: Rule { name, why, fix, source }, test };
    vec![
        case(
            "requests-are-answered",
            "a follower forwards its clients' writes by requests; an answer to another one tells a client a lie",
            "match answers to requests by a stream or a number of their own",
            "Transport::request",
            answered as for<'a> fn(&'a mut Bench) -> CaseFuture<'a>,
        ),
        case(
            "not-sent-means-no-effect",
            "the client is told `not_applied` and repeats its write; a request that was sent all the same doubles it",
            "return NotSent only when the request cannot have reached the peer; cancel what is queued when the time \
             is over",
            "RequestError::NotSent",
            not_sent,
        ),
        case(
            "a-lost-answer-is-not-a-failure",
            "a write that may have had its effect must be told as `unknown`, never as `not_applied`",
            "return NoAnswer once a byte of the request may have left",
            "RequestError::NoAnswer",
            lost_answer,
        ),
    ]
}

pub(super) async fn ask(from: &Member, to: &Member, request: Bytes, timeout: Duration) -> Result<Bytes, RequestError> {
    from.transport.request(&to.name, request, timeout).await
}

fn answered(bench: &mut Bench) -> CaseFuture<'_> {
    Box::pin(async move {
        let members = bench.cluster(3).await;
        let mut random = Random::new(1);
        for length in [0, 1, 100, 60_000, 400_000] {
            for (from, to) in [(0, 1), (1, 0), (2, 1), (0, 2)] {
                let (from, to) = (&members[from], &members[to]);
                let request = random_bytes(&mut random, length);
                let answer = bench.rule.expect(ask(from, to, request.clone(), PATIENT).await, "a request");
                bench.rule.demand(answer == [b"answer to ", &request[..]].concat(), || {
                    format!("a request of {length} bytes got another answer, of {} bytes", answer.len())
                });
                let requests = to.inbound.requests();
                let arrived: Vec<_> = requests.iter().filter(|(who, _)| who.name == from.name).collect();
                bench.rule.demand(arrived.last().is_some_and(|(_, bytes)| *bytes == request), || {
                    format!("{} did not get the request of {} as it was", to.name, from.name)
                });
                let (who, _) = arrived[arrived.len() - 1];
                bench.rule.demand_eq(&who.incarnation, &from.incarnation, || "incarnation of the asker".into());
                bench.rule.demand_eq(&who.id, &Some(from.id), || "id of the asker".into());
                bench.rule.demand_eq(&who.cluster, &from.cluster, || "cluster of the asker".into());
            }
        }
        // Two at once, to one peer: each gets its own answer, in whatever order they come.
        let (from, to) = (&members[0], &members[1]);
        let ask_text = |text: &'static str| ask(from, to, Bytes::from_static(text.as_bytes()), PATIENT);
        let (one, other) = both(ask_text("one"), ask_text("other")).await;
        bench.rule.demand_eq(&one, &Ok(Bytes::from_static(b"answer to one")), || "first of two requests".into());
        bench.rule.demand_eq(&other, &Ok(Bytes::from_static(b"answer to other")), || "second of two requests".into());
    })
}

fn not_sent(bench: &mut Bench) -> CaseFuture<'_> {
    Box::pin(async move {
        let members = bench.cluster(3).await;
        let (asker, stopped, other) = (&members[0], &members[1], &members[2]);
        let request = Bytes::from_static(b"put");
        let unknown = asker.transport.request(&NodeName::new("nobody"), request.clone(), SHORT).await;
        demand_not_sent(bench, &unknown, "to a name that is no peer");

        stopped.transport.stop().await;
        // The asker may still believe in the connection; until it knows better, no answer is the honest word.
        let mut asked = 0;
        loop {
            asked += 1;
            bench.rule.demand(asked < 200, || "a peer that stopped long ago was never found to be gone".into());
            match ask(asker, stopped, request.clone(), SHORT).await {
                Err(RequestError::NotSent(_)) => break,
                Err(RequestError::NoAnswer(_)) => bench.lab.pause(super::POLL).await,
                Ok(answer) => bench.rule.fail(&format!("a stopped peer answered {answer:?}")),
            }
        }
        bench.rule.demand_eq(&stopped.inbound.requests().len(), &0, || "requests handled by a stopped node".into());

        other.transport.stop().await;
        let from_stopped = ask(other, asker, request, SHORT).await;
        demand_not_sent(bench, &from_stopped, "of a transport that was stopped");
        bench.rule.demand_eq(&asker.inbound.requests().len(), &0, || "requests handled".into());
    })
}

fn demand_not_sent(bench: &Bench, result: &Result<Bytes, RequestError>, which: &str) {
    bench.rule.demand(matches!(result, Err(RequestError::NotSent(_))), || {
        format!("a request {which} ended in {result:?}, and NotSent was due")
    });
}

fn lost_answer(bench: &mut Bench) -> CaseFuture<'_> {
    Box::pin(async move {
        let members = bench.cluster(2).await;
        let (asker, silent) = (&members[0], &members[1]);
        silent.inbound.fall_silent();
        let timed_out = ask(asker, silent, Bytes::from_static(b"first"), SHORT).await;
        demand_no_answer(bench, &timed_out, "that its peer took and did not answer in time");
        bench.rule.demand_eq(&silent.inbound.requests().len(), &1, || "requests handled".into());

        // The peer goes while it works on the request: the asker hears of it long before its timeout.
        let asking = ask(asker, silent, Bytes::from_static(b"second"), PATIENT * 10);
        let stopping = async {
            bench.until("the second request to be handled", || silent.inbound.requests().len() == 2).await;
            silent.transport.stop().await;
        };
        let (broken, ()) = both(asking, stopping).await;
        demand_no_answer(bench, &broken, "whose peer stopped while it worked on it");
    })
}

fn demand_no_answer(bench: &Bench, result: &Result<Bytes, RequestError>, which: &str) {
    bench.rule.demand(matches!(result, Err(RequestError::NoAnswer(_))), || {
        format!("a request {which} ended in {result:?}, and NoAnswer was due")
    });
}

/// Runs two futures at once, on whatever executor there is.
pub(super) async fn both<A, B>(one: impl Future<Output = A>, other: impl Future<Output = B>) -> (A, B) {
    let (mut one, mut other) = (pin!(one), pin!(other));
    let (mut one_done, mut other_done) = (None, None);
    poll_fn(|context| {
        if one_done.is_none()
            && let Poll::Ready(value) = one.as_mut().poll(context)
        {
            one_done = Some(value);
        }
        if other_done.is_none()
            && let Poll::Ready(value) = other.as_mut().poll(context)
        {
            other_done = Some(value);
        }
        match (one_done.take(), other_done.take()) {
            (Some(one), Some(other)) => Poll::Ready((one, other)),
            (one, other) => {
                (one_done, other_done) = (one, other);
                Poll::Pending
            }
        }
    })
    .await
}
