# What the alerts do with measurements, as unit tests for `promtool test rules`: each states what was measured, and which
# alerts fire about it then, of those it names.
{ lib, rules }:
let
  nodes = [
    "node1"
    "node2"
    "node3"
  ];
  jobs = [
    "node"
    "balancer"
    "keeper"
  ];
  # `up` of every program of every node, from one function of node and job.
  up =
    values:
    lib.concatMap (
      node:
      map (job: {
        series = ''up{job="${job}", node="${node}"}'';
        values = values node job;
      }) jobs
    ) nodes;
  series = series: values: { inherit series values; };
  always = value: "${toString value}x40"; # 40 samples, 5 s apart
  well = up (_: _: always 1);
  node3Silent = up (node: _: always (if node == "node3" then 0 else 1));

  # By the series ALERTS, so that names and labels are compared; the words are for people.
  fires = eval_time: alertname: alerts: {
    inherit eval_time;
    expr = ''ALERTS{alertname="${alertname}", alertstate="firing"}'';
    exp_samples = map (labels: {
      labels = "ALERTS{${
        lib.concatStringsSep ", " (
          lib.mapAttrsToList (label: value: ''${label}="${value}"'') (
            labels
            // {
              inherit alertname;
              alertstate = "firing";
            }
          )
        )
      }}";
      value = 1;
    }) alerts;
  };
  case = name: input_series: promql_expr_test: {
    inherit name input_series promql_expr_test;
    interval = "5s";
  };
  critical = labels: labels // { severity = "critical"; };
  warning = labels: labels // { severity = "warning"; };
in
{
  rule_files = [ rules ];
  evaluation_interval = "1s";
  tests = [
    (case "all is well" (
      well
      ++ [
        (series ''trivet_keeper_member_primary{node="node1"}'' (always 1))
        (series ''trivet_keeper_member_primary{node="node2"}'' (always 0))
      ]
    ) (map (name: fires "3m" name [ ]) [ "NodeDown" "ServiceDown" "NoPrimary" "TwoPrimaries" ]))

    (case "a silent node is one alert, not one for each of its programs" (
      node3Silent ++ [ (series ''trivet_backend_up{job="balancer", node="node1", pool="web", backend="node3"}'' (always 0)) ]
    ) [
      (fires "3m" "NodeDown" [ (critical { node = "node3"; }) ])
      (fires "3m" "ServiceDown" [ ])
      (fires "3m" "BackendDown" [ ])
    ])

    (case "one program of a living node" (up (node: job: always (if node == "node2" && job == "keeper" then 0 else 1))) [
      (fires "30s" "ServiceDown" [ ])
      (fires "3m" "ServiceDown" [
        (warning {
          node = "node2";
          job = "keeper";
        })
      ])
      (fires "3m" "NodeDown" [ ])
    ])

    (case "a back end down, the others up" (
      well
      ++ [
        (series ''trivet_backend_up{job="balancer", node="node1", pool="web", backend="node2"}'' (always 0))
        (series ''trivet_backend_up{job="balancer", node="node1", pool="web", backend="node1"}'' (always 1))
      ]
    ) [
      (fires "2m" "BackendDown" [
        (warning {
          job = "balancer";
          node = "node1";
          pool = "web";
          backend = "node2";
        })
      ])
      (fires "2m" "NoBackend" [ ])
    ])

    (case "all back ends down" [
      (series ''trivet_backend_up{job="balancer", node="node1", pool="web", backend="node2"}'' (always 0))
      (series ''trivet_backend_up{job="balancer", node="node1", pool="web", backend="node1"}'' (always 0))
    ] [ (fires "2m" "NoBackend" [ (critical { node = "node1"; pool = "web"; }) ]) ])

    (case "one pool without a back end, while another has its own" [
      (series ''trivet_backend_up{job="balancer", node="node1", pool="web", backend="node1"}'' (always 1))
      (series ''trivet_backend_up{job="balancer", node="node1", pool="shop", backend="shop1"}'' (always 0))
    ] [
      (fires "2m" "NoBackend" [ (critical { node = "node1"; pool = "shop"; }) ])
      (fires "2m" "BackendDown" [
        (warning {
          job = "balancer";
          node = "node1";
          pool = "shop";
          backend = "shop1";
        })
      ])
    ])

    (case "no keeper answers at all" well [ (fires "1m" "NoPrimary" [ (critical { }) ]) ])

    (case "two primaries, and a member that is not online" [
      (series ''trivet_keeper_member_primary{node="node1"}'' (always 1))
      (series ''trivet_keeper_member_primary{node="node2"}'' (always 1))
      (series ''trivet_keeper_member_online{node="node3"}'' (always 0))
    ] [
      (fires "2m" "TwoPrimaries" [ (critical { }) ])
      (fires "2m" "MemberNotOnline" [ (warning { node = "node3"; }) ])
    ])

    (case "an app that does not reach the primary; without a primary the alert is another" [
      (series ''trivet_app_database_reachable{node="node1", pool="write"}'' (always 0))
      (series ''trivet_keeper_member_primary{node="node1"}'' "1x20 0x20") # gone after 100 s
    ] [
      (fires "90s" "AppWithoutDatabase" [
        (critical {
          node = "node1";
          pool = "write";
        })
      ])
      (fires "3m" "AppWithoutDatabase" [ ])
      (fires "3m" "NoPrimary" [ (critical { }) ])
    ])

    (case "a certificate with ten days left, and one with a hundred" [
      (series ''trivet_certificate_expiry_timestamp_seconds{node="node1", file="site.pem"}'' (always 864000))
      (series ''trivet_certificate_expiry_timestamp_seconds{node="node1", file="node.pem"}'' (always 8640000))
    ] [
      (fires "1m" "CertificateExpiring" [
        (warning {
          node = "node1";
          file = "site.pem";
        })
      ])
    ])

    (case "a revocation list that is good for twelve hours more, and one for a hundred" [
      (series ''trivet_revocation_list_expiry_timestamp_seconds{node="node1", file="clients.pem"}'' (always 43200))
      (series ''trivet_revocation_list_expiry_timestamp_seconds{node="node1", file="others.pem"}'' (always 360000))
    ] [
      (fires "1m" "RevocationListExpiring" [
        (warning {
          node = "node1";
          file = "clients.pem";
        })
      ])
    ])
  ];
}
