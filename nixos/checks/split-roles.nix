# A cluster whose roles are split: each node runs the units of its roles and no others, opens their ports and no others, and
# the nodes find one another. Returns the expectations that failed.
{ lib, evaluate }:
let
  split = {
    services.trivet.cluster.nodes = {
      node1.roles = [ "balancer" ];
      node2.roles = [
        "app"
        "monitoring"
      ];
      node3.roles = [ "database" ];
    };
  };
  config = name: (evaluate.node name split).config;
  balancer = config "node1";
  app = config "node2";
  database = config "node3";

  ours = [
    "trivet-balancer"
    "trivet-gateway"
    "trivet-web"
    "trivet-app"
    "trivet-keeper"
    "mysql"
    "keepalived"
    "prometheus"
    "alertmanager"
    "prometheus-mysqld-exporter"
    "prometheus-node-exporter"
  ];
  units = c: lib.sort lib.lessThan (lib.filter (u: c.systemd.services ? ${u}) ours);
  ruleset = c: c.networking.nftables.tables.trivet.content;
  opens = c: port: lib.hasInfix " ${toString port} " (lib.replaceStrings [ "," ] [ " " ] (ruleset c));

  expect = what: good: lib.optional (!good) "split roles: ${what}";
  equal =
    what: expected: found:
    expect "${what}: expected ${builtins.toJSON expected}, found ${builtins.toJSON found}" (expected == found);
in
equal "units of a balancer" [ "keepalived" "prometheus-node-exporter" "trivet-balancer" ] (units balancer)
++ equal "units of an app node" [
  "alertmanager"
  "prometheus"
  "prometheus-node-exporter"
  "trivet-app"
  "trivet-gateway"
  "trivet-web"
] (units app)
++ equal "units of a database member" [
  "mysql"
  "prometheus-mysqld-exporter"
  "prometheus-node-exporter"
  "trivet-keeper"
] (units database)
++ equal "back ends" [
  {
    name = "node2";
    address = "10.77.0.12:8443";
  }
] balancer.services.trivet.balancer.settings.web.backends
++ expect "an app alone has no peers" (!app.services.trivet.web.settings ? peers)
++ expect "a balancer opens 443" (opens balancer 443)
++ expect "a balancer does not open 3306" (!opens balancer 3306)
++ expect "a database member opens 3306 and 8008" (opens database 3306 && opens database 8008)
++ expect "a database member opens neither 80 nor 443" (!opens database 80 && !opens database 443)
++ expect "only a monitoring node has dashboards" (opens app 9090 && !opens database 9090)
++ lib.concatMap (
  c: expect "an assertion of ${c.networking.hostName} fails" (lib.all (a: a.assertion) c.assertions)
) [ balancer app database ]
