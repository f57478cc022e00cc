//! Settings that cannot work are refused at the start, by their names.

use super::*;
use crate::SetupError;

fn refused(config: QuicConfig) -> SetupError {
    QuicTransport::new(config).unwrap_err()
}

fn config(files: TlsFiles) -> QuicConfig {
    QuicConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)), CLUSTER, files)
}

#[test]
fn files_that_do_not_fit_are_named() {
    let authority = Authority::new();
    let good = authority.node(CLUSTER, "n1");
    assert!(QuicTransport::new(config(good.clone())).is_ok());

    let missing = authority.path("missing.pem");
    let error = refused(config(TlsFiles { ca: missing.clone(), ..good.clone() }));
    assert_eq!(error.setting, "peer.tls.ca");
    assert!(error.to_string().contains("missing.pem"), "{error}");
    assert_eq!(refused(config(TlsFiles { cert: missing.clone(), ..good.clone() })).setting, "peer.tls.cert");
    assert_eq!(refused(config(TlsFiles { key: missing, ..good.clone() })).setting, "peer.tls.key");

    let garbage = authority.path("garbage.pem");
    std::fs::write(&garbage, "not PEM").unwrap();
    assert_eq!(refused(config(TlsFiles { ca: garbage.clone(), ..good.clone() })).setting, "peer.tls.ca");
    assert_eq!(refused(config(TlsFiles { cert: garbage.clone(), ..good.clone() })).setting, "peer.tls.cert");
    assert_eq!(refused(config(TlsFiles { key: garbage.clone(), ..good.clone() })).setting, "peer.tls.key");
    // A key whose line ends were lost on the way, as in a variable: no error may show it.
    std::fs::write(&garbage, "-----BEGIN PRIVATE KEY-----\\nc2VjcmV0\\n-----END PRIVATE KEY-----").unwrap();
    let error = refused(config(TlsFiles { key: garbage, ..good.clone() }));
    assert!(
        !format!("{error} {error:?}").contains("c2VjcmV0") && !format!("{error:?}").contains("99, 50"),
        "{error:?}"
    );

    let other = authority.node(CLUSTER, "n2");
    let error = refused(config(TlsFiles { key: other.key, ..good.clone() }));
    assert_eq!(error.setting, "peer.tls.key");
    assert!(error.problem.contains("does not belong"), "{error}");
    let error = refused(config(TlsFiles { ca: Authority::new().node(CLUSTER, "n1").ca, ..good }));
    assert!(error.setting.starts_with("peer.tls.c"), "{error}");
}

#[test]
fn a_certificate_that_is_over_is_refused_at_the_start() {
    let authority = Authority::new();
    let over = authority.issue_with("over", &[San::Dns("localhost")], |params| {
        params.not_after = rcgen::date_time_ymd(2001, 1, 1);
    });
    let error = refused(config(over));
    assert_eq!(error.setting, "peer.tls.cert");
}

#[test]
fn numbers_and_names_out_of_range_are_named() {
    let authority = Authority::new();
    let files = authority.node(CLUSTER, "n1");
    let with = |change: fn(&mut QuicConfig)| {
        let mut config = config(files.clone());
        change(&mut config);
        refused(config).setting
    };
    assert_eq!(with(|config| config.cluster_name = "a/b".into()), "cluster");
    assert_eq!(with(|config| config.cluster_name.clear()), "cluster");
    assert_eq!(with(|config| config.limits.frame_bytes_max = 10), "peer.frame_bytes_max");
    assert_eq!(with(|config| config.limits.requests_max = 0), "peer.requests_max");
    assert_eq!(with(|config| config.limits.snapshot_streams_max = 0), "peer.snapshot_streams_max");
    assert_eq!(with(|config| config.limits.snapshot_chunk_bytes_max = 1), "peer.snapshot_chunk_bytes_max");
    let stall = with(|config| config.timing.snapshot_stall_timeout = Duration::ZERO);
    assert_eq!(stall, "peer.snapshot_stall_timeout");
    assert_eq!(with(|config| config.timing.backoff_min = Duration::ZERO), "peer.backoff_min");
    assert_eq!(with(|config| config.timing.backoff_min = Duration::from_secs(1)), "peer.backoff_min");
    assert_eq!(with(|config| config.timing.keep_alive = Duration::from_secs(4)), "peer.keep_alive");
}

#[tokio::test]
async fn a_port_in_use_is_named_and_free_again_after_a_stop() {
    let authority = Authority::new();
    let one = Node::start(1, authority.node(CLUSTER, "n1")).await;
    let mut config = config(authority.node(CLUSTER, "n2"));
    config.listen = one.address;
    let two = QuicTransport::new(config).unwrap();
    let error = two.start(Recorder::new()).await.unwrap_err();
    assert!(error.starts_with(&format!("peer.listen {} is in use", one.address)), "{error}");
    one.transport.stop().await;
    two.start(Recorder::new()).await.unwrap();
    let again = two.start(Recorder::new()).await.unwrap_err();
    assert!(again.contains("start it once"), "{again}");
    two.stop().await;
    UdpSocket::bind(one.address).unwrap();
}
