# The alerts: each with what happened, and what to look at. `node` is the node as the cluster names it.
{ cfg, lib }:
let
  inherit (cfg) monitoring;
  # Of an interval of the backups, whose unit may be a word: its first letter is Prometheus' unit.
  seconds =
    text:
    let
      parts = builtins.match "([0-9]+)([a-z])[a-z]*" text;
    in
    import ./milliseconds.nix { inherit lib; } (lib.concatStrings parts) / 1000;
  # Two intervals.
  late = lib.mapAttrs (_: every: 2 * seconds every) {
    base = cfg.backup.base.every;
    verify = cfg.backup.verify.every;
  };
  # Only NaN is not what it is.
  never =
    what:
    let
      last = "max by (repository) (trivet_backup_last_${what}_timestamp_seconds)";
    in
    "${last} != ${last}";
  alert =
    name:
    {
      severity,
      wait,
      expr,
      summary,
      description,
    }:
    {
      alert = name;
      inherit expr;
      "for" = wait;
      labels = { inherit severity; };
      annotations = { inherit summary description; };
    };

  # Nodes of which nothing answers. Other alerts leave out what follows from that: one fault, one alert.
  silent = ''max by (node) (up{job!="prometheus"}) == 0'';
  aboutSilent = label: ''on (${label}) label_replace(${silent}, "${label}", "$1", "node", "(.*)")'';
in
{
  groups = [
    {
      name = "trivet";
      rules = [
        (alert "NodeDown" {
          severity = "critical";
          wait = monitoring.nodeDownAfter;
          expr = silent;
          summary = "{{ $labels.node }} is down";
          description = "Nothing on {{ $labels.node }} answers. The site goes on without it; look at the machine and its network.";
        })
        (alert "ServiceDown" {
          severity = "warning";
          wait = "1m";
          expr = "up == 0 unless on (node) (${silent})";
          summary = "{{ $labels.job }} on {{ $labels.node }} does not answer";
          description = "The machine runs, its {{ $labels.job }} does not: look at `systemctl status` and `journalctl -u` of its unit there.";
        })
        (alert "BackendDown" {
          severity = "warning";
          wait = "30s";
          expr = ''trivet_backend_up{job="balancer"} == 0 unless ${aboutSilent "backend"}'';
          summary = "The balancer on {{ $labels.node }} gets no answer from {{ $labels.backend }} of the pool {{ $labels.pool }}";
          description = "Requests go to the pool's other back ends. Look at the program there (of the pool web it is the node's trivet-web), and at the network between the two.";
        })
        (alert "NoBackend" {
          severity = "critical";
          wait = "5s";
          # By pool: a site is not served by the back ends of another.
          expr = ''max by (node, pool) (trivet_backend_up{job="balancer"}) == 0'';
          summary = "The balancer on {{ $labels.node }} has no back end left in the pool {{ $labels.pool }}";
          description = "Were it to hold the virtual address, what that pool serves would be answered with errors. Look at the pool's back ends: those of web are trivet-web on all nodes.";
        })
        (alert "MemberNotOnline" {
          severity = "warning";
          wait = "1m";
          expr = "trivet_keeper_member_online == 0";
          summary = "MySQL on {{ $labels.node }} is not ONLINE in its group";
          description = "`trivet status` has the keeper's reason. One member fewer survives one failure fewer.";
        })
        (alert "MemberNeedsCare" {
          severity = "warning";
          wait = "1m";
          expr = "trivet_keeper_warnings > 0";
          summary = "The keeper on {{ $labels.node }} warns, although its member works";
          description = "`trivet status` says of what, and what to do: a disk nearly full, a clock that is off, certificates that do not fit.";
        })
        (alert "NoPrimary" {
          severity = "critical";
          wait = "15s";
          expr = "(sum(trivet_keeper_member_primary) or vector(0)) == 0";
          summary = "No member of the database is primary: nothing can be written";
          description = "`trivet status` has every keeper's reason. After a complete outage the keepers wait for all members.";
        })
        (alert "TwoPrimaries" {
          severity = "critical";
          wait = "1m";
          expr = "sum(trivet_keeper_member_primary) > 1";
          summary = "{{ $value }} members of the database say they are primary";
          description = "A cut-off member may still believe so, and refuses writes; if it does not pass with the cut, stop the member outside the majority.";
        })
        (alert "ReplicaBehind" {
          severity = "warning";
          wait = "2m";
          expr = "trivet_keeper_lag_seconds > 30";
          summary = "MySQL on {{ $labels.node }} is {{ $value }} s behind";
          description = "Readers who wrote are sent to the primary meanwhile. Look for a long transaction, or a slow disk.";
        })
        (alert "AppWithoutDatabase" {
          severity = "critical";
          wait = "30s";
          expr = ''trivet_app_database_reachable{pool="write"} == 0 unless on () (sum(trivet_keeper_member_primary) or vector(0)) == 0'';
          summary = "The app on {{ $labels.node }} does not reach the primary, though there is one";
          description = "Look at trivet-gateway on {{ $labels.node }}.";
        })
        (alert "CertificateExpiring" {
          severity = "warning";
          wait = "0s";
          expr = "(trivet_certificate_expiry_timestamp_seconds - time()) / 86400 < ${toString monitoring.certificateWarning}";
          summary = ''{{ $labels.file }} on {{ $labels.node }} ends in {{ printf "%.0f" $value }} days'';
          description = "Renew it (`trivet secrets init --missing` for the cluster's own), copy it to the node, and reload trivet-balancer, or restart the unit of a node's own certificate.";
        })
        (alert "CertificateRefused" {
          severity = "warning";
          # A certificate and its key are rarely replaced in the same instant.
          wait = "1m";
          expr = "trivet_certificate_reload_failed == 1";
          summary = "{{ $labels.file }} on {{ $labels.node }} has changed, and the balancer goes on with the former";
          description = "The new file cannot be used, so what it replaces stays in use until it ends. The balancer's log says what is wrong.";
        })
        (alert "RevocationListExpiring" {
          severity = "warning";
          wait = "0s";
          expr = "(trivet_revocation_list_expiry_timestamp_seconds - time()) / 3600 < 24";
          summary = ''{{ $labels.file }} on {{ $labels.node }} goes out of date in {{ printf "%.0f" $value }} hours'';
          description = "From then on every client with a certificate is refused. Put the authority's next list there; the balancer follows the file.";
        })
        (alert "DiskFilling" {
          severity = "warning";
          wait = "5m";
          expr = ''node_filesystem_avail_bytes{fstype!~"tmpfs|ramfs"} / node_filesystem_size_bytes < 0.1'';
          summary = "{{ $labels.mountpoint }} of {{ $labels.node }} is nine tenths full";
          description = "A database with a full disk stops. Look for binary logs and journals first.";
        })
      ]
      ++ lib.optionals cfg.backup.enable [
        (alert "BackupLogBehind" {
          severity = "critical";
          wait = "2m";
          # Who does not stream says NaN, which is above nothing; when nobody streams there is no other.
          expr = ''(max by (repository) (trivet_backup_log_behind_seconds) > 30) or (sum(trivet_backup_is_holder{lease="backup-log"}) == 0)'';
          summary = "What is written is not in the backups within 30 s";
          description = "A `DROP TABLE` now would cost more than that. `trivet backup status` and the log of trivet-backup say why.";
        })
        (alert "BackupLate" {
          severity = "warning";
          wait = "10m";
          expr = "time() - max by (repository) (trivet_backup_last_base_timestamp_seconds) > ${toString late.base}";
          summary = "The last base copy in {{ $labels.repository }} is older than two intervals";
          description = "Restores take longer and longer. The log of trivet-backup says why there is none.";
        })
        (alert "BackupFailed" {
          severity = "critical";
          wait = "0s";
          expr = ''increase(trivet_backup_failures_total{what=~"verify|base"}[1h]) > 0'';
          summary = "A {{ $labels.what }} of the backups in {{ $labels.repository }} has failed on {{ $labels.node }}";
          description = "The log of trivet-backup there says why. A trial restore that differs from the living tables is the worst of news: take a base copy and look for the cause.";
        })
        # NaN, which is never above anything, where nothing was made or proven yet.
        (alert "BackupNone" {
          severity = "critical";
          wait = "${toString late.base}s";
          expr = never "base";
          summary = "There is no base copy in {{ $labels.repository }}";
          description = "Nothing can be restored from there. `trivet backup status` and the log of trivet-backup say why; `trivet backup now` makes one.";
        })
        (alert "BackupNeverProven" {
          severity = "warning";
          wait = "${toString late.verify}s";
          expr = never "verified";
          summary = "No restore from {{ $labels.repository }} was ever proven";
          description = "Run `trivet backup verify` and see what it says.";
        })
        (alert "BackupUnproven" {
          severity = "warning";
          wait = "10m";
          expr = "time() - max by (repository) (trivet_backup_last_verified_timestamp_seconds) > ${toString late.verify}";
          summary = "No restore from {{ $labels.repository }} was proven for two intervals";
          description = "Run `trivet backup verify` and see what it says.";
        })
      ];
    }
  ];
}
