# Sites, pools and routes: the example becomes the balancer's configuration and the files of its unit, and every mistake is
# refused in the words that say what to do about it. Returns the expectations that failed.
{ lib, evaluate }:
let
  example = ../example/sites.nix;
  node = name: extra: (evaluate.node name { imports = [ example extra ]; }).config;
  refusals = config: map (a: a.message) (lib.filter (a: !a.assertion) config.assertions);
  expect = what: good: lib.optional (!good) "sites: ${what}";
  equal =
    what: expected: found:
    expect "${what}: expected ${builtins.toJSON expected}, found ${builtins.toJSON found}" (expected == found);
  file = name: "/run/trivet-balancer/files/${name}";
  credential = name: "/run/credentials/trivet-balancer.service/${name}";

  good = node "node1" { };
  settings = good.services.trivet.balancer.settings;
  unit = good.systemd.services.trivet-balancer.serviceConfig;
  certificate = name: {
    certificate = "/var/lib/acme/${name}/fullchain.pem";
    key = "/var/lib/acme/${name}/key.pem";
  };

  # Less common ways to say it, from several modules.
  other = node "node1" {
    imports = [
      {
        services.trivet = {
          routes = lib.mkBefore [ { path = "/first"; refuse = 404; } ];
          pools.api.backends.api3 = {
            address = "10.77.0.23:8080";
            server_name = "api.internal";
          };
        };
      }
    ];
    services.trivet = {
      defaultSite = lib.mkForce "shop";
      sites.shop.certificates = [ (certificate "shop-rsa") ];
      sites.shop-2 = {
        names = [ "shop2.foobar.com" ];
        certificates = [ (certificate "shop-2") ];
        a_key_of_tomorrow = "1h";
      };
      pools.files = {
        backends.files1 = "10.77.0.41:443";
        tls = {
          ca = "/etc/files/ca.pem";
          certificate = "/etc/files/balancer.pem";
          key = "/etc/files/balancer.key";
        };
        max_in_flight = 50000;
      };
      pools.app.backends = {
        app = "unix:/run/app/app.sock";
        api = "api.internal:8080";
      };
      routes = [ { path = "/second"; hosts = [ "www2.foobar.com" ]; refuse = 404; } ];
      balancer.settings.https.server_names = [ "www.foobar.com" "www2.foobar.com" ];
      balancer.settings.pools.shop.retries = 0;
      balancer.settings.sites.shop.pool = "web";
    };
  };
  others = other.services.trivet.balancer.settings;

  bad = node "node1" (
    { pkgs, ... }:
    {
      services.trivet = {
        cluster.aliases = [ "foobar.com" "shop.foobar.com" "no host" ];
        defaultSite = lib.mkForce "shopp";
        routes = [
          { path = "/a"; pool = "apii"; }
          { name = "api"; path = "/b"; refuse = 404; }
          { path = "/c"; hosts = [ "blog.foobar.com" ]; refuse = 404; }
        ];
        sites.empty.useClusterCertificate = true;
        sites.bare = {
          names = [ "Bare.foobar.com" "bare.foobar.com" ];
          pool = "bare";
        };
        sites.main = {
          names = [ "other.foobar.com" ];
          certificates = [ { certificate = "acme/full.pem"; key = pkgs.writeText "key" "the key"; } ];
        };
        sites."a b" = {
          names = [ "ab.foobar.com" ];
          certificates = [ { certificate = "/etc/a b.pem"; key = "/etc/%n.key"; } ];
          routes = [ { name = "x"; path = "/x"; pool = "y"; } ];
        };
        pools.web.backends.w1 = "10.77.0.41:80";
        pools.nothing = { };
        pools.sockets.backends = {
          relative = "unix:app.sock";
          hidden = "unix:/tmp/app.sock";
          portless = "app.internal";
        };
        pools."a:b".backends.w1 = "10.77.0.41:80";
        pools.files = {
          backends.files1 = "10.77.0.41:443";
          tls = {
            ca = "ca.pem";
            certificate = "/etc/files/balancer.pem";
            key = pkgs.writeText "key" "the key";
          };
        };
        balancer.tls.ticketSecret = "/etc/./ticket.secret";
        balancer.certificates = [ { certificate = "/etc/../b.pem"; key = "b.key"; } ];
      };
    }
  );
  said = refusals bad;
in
map (words: "sites: the example is refused: ${words}") (refusals good)
++ equal "aliases" [ "foobar.com" ] settings.aliases
++ equal "the order of routes" [ "/shop" "/api" "/admin" "/admin" ] (map (r: r.path_prefix) settings.routes)
++ equal "the site shop" {
  names = [ "shop.foobar.com" ];
  aliases = [ "store.foobar.com" ];
  certificates = [
    {
      certificate = file "site-shop.pem";
      key = file "site-shop.key";
    }
  ];
  pool = "shop";
  limits.request_rate = {
    rate = 20;
    burst = 100;
  };
} settings.sites.shop
++ equal "a site with the cluster's certificate" {
  names = [ "blog.foobar.com" ];
  pool = "web";
  routes = [
    {
      path = "/robots.txt";
      answer.content = "User-agent: *\nDisallow: /drafts\n";
    }
  ];
} settings.sites.blog
++ equal "the pool api" {
  backends = [
    {
      name = "api1";
      address = "10.77.0.21:8080";
    }
    {
      name = "api2";
      address = "10.77.0.22:8080";
    }
  ];
  response_timeout = "10s";
  health.path = "/alive";
} (removeAttrs settings.pools.api [ "tls" ])
++ equal "the certificate of a node for the pool api" (credential "node.pem") settings.pools.api.tls.certificate
++ equal "files for the TLS of the pool shop" (file "pool-shop-key") settings.pools.shop.tls.key
++ equal "keys of the site, of the pool and of the cluster's certificate among the balancer's files" {
  "site-shop.key" = "/var/lib/acme/shop.foobar.com/key.pem";
  pool-shop-key = "/var/lib/trivet/shop/balancer.key";
  "site.key" = "/var/lib/trivet/secrets/site.key";
} (lib.getAttrs [ "site-shop.key" "pool-shop-key" "site.key" ] good.services.trivet.balancer.files)
++ expect "LimitNOFILE forgets the connections to further pools (${toString unit.LimitNOFILE})" (unit.LimitNOFILE == 71804)
++ equal "names of the cluster's certificate" [ "foobar.com" "blog.foobar.com" ] (evaluate.node "node1" example)._module.args.trivet.file.certificate_names
++ expect "a cluster of one site has more in its cluster file" (!(evaluate.node "node1" { })._module.args.trivet.file ? certificate_names)
++ expect "a cluster of one site has sites, pools, limits or routes in its configuration" (
  lib.intersectLists [ "aliases" "limits" "sites" "pools" "routes" "default_site" ] (
    lib.attrNames (evaluate.node "node1" { }).config.services.trivet.balancer.settings
  ) == [ ]
)

++ map (words: "sites: refused without need: ${words}") (refusals other)
++ equal "a route that another module puts first" "/first" (lib.head others.routes).path
++ equal "back ends of several modules" [ "api1" "api2" "api3" ] (lib.sort lib.lessThan (map (b: b.name) others.pools.api.backends))
++ equal "a second certificate of a site, and the first of another" [
  (file "site-shop+2.pem")
  (file "site-shop-2.pem")
] [
  (lib.last others.sites.shop.certificates).certificate
  (lib.head others.sites.shop-2.certificates).certificate
]
++ equal "a key that is no option" "1h" others.sites.shop-2.a_key_of_tomorrow
++ equal "files for a pool's TLS" (file "pool-files-key") others.pools.files.tls.key
++ equal "a unix socket and a name as addresses" [ "api.internal:8080" "unix:/run/app/app.sock" ] (map (b: b.address) others.pools.app.backends)
++ equal "a pool's key among the balancer's files" "/etc/files/balancer.key" other.services.trivet.balancer.files.pool-files-key
++ equal "balancer.settings in the place of a pool's and a site's values" [ 0 "web" ] [
  others.pools.shop.retries
  others.sites.shop.pool
]
++ equal "the default site" "shop" others.default_site

++ lib.concatMap
  (words: expect "expected the refusal \"${words}\", but the modules said: ${lib.concatStringsSep "; " said}" (lib.any (lib.hasInfix words) said))
  [
    "the name \"shop.foobar.com\" is one of the sites main and shop; leave it to one of them"
    "the name \"bare.foobar.com\" stands twice in the names and aliases of the site bare; name it once"
    "the site main has the name \"no host\", which is no host name; write it as in the address bar"
    "services.trivet.defaultSite is \"shopp\", which is no site; the sites are main, a b, bare, blog, empty, shop"
    "the site empty has no name; set services.trivet.sites.empty.names to what stands in the address bar"
    "the site bare has no certificate; name its files in services.trivet.sites.bare.certificates, or set"
    "the site bare is served by the pool \"bare\", which is not there; the pools are web, a:b, api, files, nothing, shop, sockets, and services.trivet.pools.bare makes"
    "the site of services.trivet.cluster.domain is called main; give services.trivet.sites.main another name"
    "the site \"a b\" has a name that logs and metrics cannot carry"
    "certificate 1 of services.trivet.sites.main is \"acme/full.pem\", which is no absolute path"
    "the key of certificate 1 of services.trivet.sites.main is in the store"
    "certificate 1 of services.trivet.sites.a b is \"/etc/a b.pem\", which is no absolute path, or has"
    "the key of certificate 1 of services.trivet.sites.a b is \"/etc/%n.key\", which is no absolute path, or has"
    "route 1 of services.trivet.routes leads to the pool \"apii\", which is not there"
    "route \"x\" of services.trivet.sites.a b.routes leads to the pool \"y\", which is not there"
    "route 3 of services.trivet.routes asks for the host \"blog.foobar.com\", which is no name of this site; it answers to www.foobar.com"
    "two routes of services.trivet.routes have the name \"api\""
    "the pool web is the web tiers of the cluster; give services.trivet.pools.web another name"
    "the pool nothing has no back ends; name them in services.trivet.pools.nothing.backends"
    "the pool \"a:b\" has a name that logs and metrics cannot carry"
    "the back end relative of the pool sockets has the address \"unix:app.sock\", which is no absolute path"
    "the back end hidden of the pool sockets has its socket in /tmp/app.sock, which is hidden from the balancer's unit"
    "the back end portless of the pool sockets has the address \"app.internal\" without a port"
    "tls.ca of the pool files is \"ca.pem\", which is no absolute path"
    "tls.key of the pool files is in the store"
    "services.trivet.balancer.tls.ticketSecret is \"/etc/./ticket.secret\", which"
    "certificate 1 of services.trivet.balancer.certificates is \"/etc/../b.pem\", which"
    "the key of certificate 1 of services.trivet.balancer.certificates is \"b.key\", which is no absolute path"
  ]
# A node without that role is told as well: the same cluster.nix is for all.
++ expect "a node without a balancer is not told of a pool without back ends" (
  lib.any (lib.hasInfix "the pool nothing has no back ends") (
    refusals (node "node3" {
      services.trivet.cluster.nodes.node3.roles = [ "database" ];
      services.trivet.pools.nothing = { };
    })
  )
)
