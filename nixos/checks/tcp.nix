# Services of other protocols: they become the balancer's configuration, its limit of descriptors and the firewall's rules, and every
# mistake is refused in words. Returns the expectations that failed.
{ lib, evaluate }:
let
  node = name: tcp: (evaluate.node name { services.trivet = { inherit tcp; }; }).config;
  refusals = config: map (a: a.message) (lib.filter (a: !a.assertion) config.assertions);
  expect = what: good: lib.optional (!good) "tcp: ${what}";
  equal =
    what: expected: found:
    expect "${what}: expected ${builtins.toJSON expected}, found ${builtins.toJSON found}" (expected == found);

  good = node "node1" {
    mail = {
      port = 25;
      clients = [ "10.0.0.0/8" "2001:db8::/32" ];
      max_connections = 40000;
      pool = {
        backends.mail1 = "10.77.0.21:25";
        backends.mail2 = {
          address = "10.77.0.22:25";
          backup = true;
        };
        send_proxy_protocol = "v2";
      };
    };
    tls = {
      listen = [ "10.77.0.50:8883" "127.0.0.1:8884" ];
      sni = [
        {
          names = [ "shop.foobar.com" ];
          pool.backends.shop = "10.77.0.31:443";
        }
      ];
    };
  };
  tcp = good.services.trivet.balancer.settings.tcp;
  rules = good.services.trivet.firewall.extraInputRules;

  said = refusals (
    node "node1" {
      "a b" = {
        port = 1;
        pool.backends.x = "10.77.0.31:1";
      };
      nowhere.pool.backends.x = "10.77.0.31:1";
      nobody.port = 2;
      empty = {
        port = 3;
        pool = { };
        sni = [
          {
            names = [ "shop.foobar.com" ];
            pool = { };
          }
        ];
      };
      own = {
        port = 22;
        pool.backends.x = "10.77.0.31:1";
      };
      sockets = {
        port = 4;
        pool.backends = {
          relative = "unix:a.sock";
          hidden = "unix:/tmp/a.sock";
          portless = "mail.internal";
        };
      };
      word = {
        listen = [ "mail" ];
        pool.backends.x = "10.77.0.31:1";
      };
    }
  );
in
map (words: "tcp: refused without need: ${words}") (refusals good)
++ equal "a service in the program's words" {
  listen = [ "[::]:25" ];
  clients = [ "10.0.0.0/8" "2001:db8::/32" ];
  max_connections = 40000;
  pool = {
    backends = [
      {
        name = "mail1";
        address = "10.77.0.21:25";
      }
      {
        name = "mail2";
        address = "10.77.0.22:25";
        backup = true;
      }
    ];
    send_proxy_protocol = "v2";
  };
} tcp.mail
++ equal "a service of names" {
  listen = [ "10.77.0.50:8883" "127.0.0.1:8884" ];
  sni = [
    {
      names = [ "shop.foobar.com" ];
      pool.backends = [
        {
          name = "shop";
          address = "10.77.0.31:443";
        }
      ];
    }
  ];
} tcp.tls
++ equal "the firewall's rules" [
  ''ip saddr { 10.0.0.0/8 } tcp dport { 25 } accept comment "tcp mail"''
  ''ip6 saddr { 2001:db8::/32 } tcp dport { 25 } accept comment "tcp mail"''
  ''tcp dport { 8883 } accept comment "tcp tls"''
] (lib.filter (rule: rule != "") (lib.splitString "\n" rules))
++ (
  let
    limit = good.systemd.services.trivet-balancer.serviceConfig.LimitNOFILE;
    plain = (node "node1" { }).systemd.services.trivet-balancer.serviceConfig.LimitNOFILE;
  in
  # Two for each connection, and for the checks of three back ends.
  expect "LimitNOFILE forgets the connections of services (${toString limit})" (limit >= 2 * 41000 && limit > plain)
)
++ (
  let
    limit =
      address:
      (node "node1" {
        redis = {
          port = 6379;
          max_connections = 40000; # above the least that every balancer has
          pool.backends.redis = address;
        };
      }).systemd.services.trivet-balancer.serviceConfig.LimitNOFILE;
  in
  expect "LimitNOFILE forgets the addresses that a name may have" (limit "redis.internal:6379" > limit "10.77.0.31:6379")
  ++ equal "LimitNOFILE with a unix socket" (limit "10.77.0.31:6379") (limit "unix:/run/redis/redis.sock")
)
++ expect "a cluster without services has some in its configuration" (
  !(node "node1" { }).services.trivet.balancer.settings ? tcp
)
++ lib.concatMap
  (words: expect "expected the refusal \"${words}\", but the modules said: ${lib.concatStringsSep "; " said}" (lib.any (lib.hasInfix words) said))
  [
    "the TCP service \"a b\" has a name that logs and metrics cannot carry"
    "the TCP service nowhere listens nowhere; set services.trivet.tcp.nowhere.port"
    "the TCP service nobody has no back ends; name them in services.trivet.tcp.nobody.pool.backends"
    "the TCP service empty has no back ends in its pool of services.trivet.tcp.empty"
    "the TCP service empty has no back ends in its sni, entry 1, of services.trivet.tcp.empty"
    "the TCP service own listens on port 22, which is Trivet's own (ssh)"
    "the back end relative of the TCP service sockets has the address \"unix:a.sock\", which is no absolute path"
    "the back end hidden of the TCP service sockets has its socket in /tmp/a.sock, which is hidden from the balancer's unit"
    "the back end portless of the TCP service sockets has the address \"mail.internal\" without a port"
    "the TCP service word listens on \"mail\", which is no address with a port"
  ]
