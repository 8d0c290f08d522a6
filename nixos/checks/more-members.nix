# A fourth and a fifth member are an attribute each: every node learns of them, and mysqld on the others is not restarted for it.
# Returns the expectations that failed.
{ lib, evaluate }:
let
  more = {
    services.trivet.cluster.nodes = {
      node4.address = "10.77.0.14";
      node5.address = "10.77.0.15";
    };
  };
  four.services.trivet.cluster.nodes.node4.address = "10.77.0.14";
  three = (evaluate.node "node1" { }).config;
  five = name: (evaluate.node name more).config;
  members = c: map (m: m.name) c.services.trivet.keeper.settings.members;
  mysqld = c: {
    inherit (c.services.mysql.settings) mysqld;
    unit = c.systemd.units."mysql.service".text;
  };
  names = [
    "node1"
    "node2"
    "node3"
    "node4"
    "node5"
  ];

  expect = what: good: lib.optional (!good) "more members: ${what}";
in
lib.concatMap (
  name:
  let
    c = five name;
  in
  expect "the keeper of ${name} knows all five" (members c == names)
  ++ expect "the gateway of ${name} knows all five" (
    map (m: m.name) c.services.trivet.gateway.settings.database.members == names
  )
  ++ expect "the firewall of ${name} lets all five in" (
    lib.all (n: lib.hasInfix "10.77.0.1${toString n}" c.networking.nftables.tables.trivet.content) [ 1 2 3 4 5 ]
  )
  ++ expect "an assertion of ${name} fails" (lib.all (a: a.assertion) c.assertions)
) [ "node1" "node5" ]
++ expect "mysqld of node1 is restarted for two more members" (mysqld three == mysqld (five "node1"))
++ expect "four members bring a warning" (
  lib.any (lib.hasInfix "4 nodes have the role database") (evaluate.node "node1" four).config.warnings
)
++ expect "five bring none" (!lib.any (lib.hasInfix "nodes have the role database") (five "node1").warnings)
