# What is wrong with sites, pools and routes, as a list of sentences: each names the site, the pool or the route, and what to do
# about it. What a program alone can know, such as a route that no request reaches, its check says when the system is built.
{ lib, cfg }:
let
  inherit (cfg) cluster;
  onNode = import ./on-node.nix { inherit lib; };
  problem = bad: message: lib.optional bad message;
  list = lib.concatStringsSep ", ";

  # What stands in balancer.settings counts as well; where that is nonsense, the program's check says so.
  namesIn = value: if builtins.isAttrs value then lib.attrNames value else [ ];
  strings = value: if builtins.isList value then lib.filter builtins.isString value else [ ];
  settings = cfg.balancer.settings;
  pools = lib.unique ([ "web" ] ++ lib.attrNames cfg.pools ++ namesIn (settings.pools or { }));
  sites = lib.unique ([ "main" ] ++ lib.attrNames cfg.sites ++ namesIn (settings.sites or { }));

  isName = name: builtins.match "[A-Za-z0-9._-]+" name != null;
  isLabel = n: builtins.match "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?" n != null;
  # With a wildcard in the place of the first label, if the program knows those.
  isHost =
    n: lib.stringLength n <= 253 && lib.all isLabel (lib.splitString "." (lib.removePrefix "*." n));

  # Every site, that of the domain first: where it stands, and its names.
  all = [
    {
      name = "main";
      names = strings (settings.https.server_names or [ cluster.domain ]);
      inherit (cluster) aliases;
      inherit (cfg) routes;
      at = "services.trivet.routes";
    }
  ]
  ++ lib.mapAttrsToList (name: site: {
    inherit name;
    inherit (site) names aliases routes;
    at = "services.trivet.sites.${name}.routes";
  }) cfg.sites;

  owners = lib.groupBy (o: o.host) (
    lib.concatMap (
      site:
      map (host: {
        host = lib.toLower host;
        site = site.name;
      }) (site.names ++ site.aliases)
    ) all
  );

  poolProblem =
    what: name:
    problem (!lib.elem name pools) (
      "${what} the pool \"${name}\", which is not there; the pools are ${list pools}, and services.trivet.pools.${name} makes another"
    );

  routeProblems =
    site:
    let
      hosts = map lib.toLower site.names;
      named = lib.groupBy (r: r.name) (lib.filter (r: builtins.isString (r.name or null)) site.routes);
      twice = lib.attrNames (lib.filterAttrs (_: same: lib.length same > 1) named);
    in
    lib.concatLists (
      lib.imap1 (
        number: route:
        let
          what = "route ${if builtins.isString (route.name or null) then "\"${route.name}\"" else toString number} of ${site.at}";
        in
        lib.optionals (builtins.isString (route.pool or null)) (poolProblem "${what} leads to" route.pool)
        ++ map (
          host: "${what} asks for the host \"${host}\", which is no name of this site; it answers to ${list site.names}"
        ) (
          lib.filter (h: !lib.elem (lib.toLower h) hosts && !lib.any (lib.hasPrefix "*.") hosts) (strings (route.hosts or [ ]))
        )
      ) site.routes
    )
    ++ map (name: "two routes of ${site.at} have the name \"${name}\"; logs and metrics would not tell one from the other, rename one") twice;

  addressProblems = pool: backend: import ./address-problems.nix { inherit lib; } "the back end ${backend.name} of the pool ${pool}" "8080" backend;

  files =
    where: example:
    lib.imap1 (
      number: c:
      let
        of = part: {
          what = if part == "key" then "the key of ${where number}" else where number;
          path = c.${part};
          example = "${example}/${if part == "key" then "key.pem" else "fullchain.pem"}";
        };
      in
      onNode.problems (of "certificate") ++ onNode.problems (of "key") ++ onNode.secretProblems (of "key")
    );
in
# Names
lib.mapAttrsToList (
  host: same:
  let
    of = lib.unique (map (o: o.site) same);
  in
  if lib.length of > 1 then
    "the name \"${host}\" is one of the sites ${lib.concatStringsSep " and " of}; leave it to one of them"
  else
    "the name \"${host}\" stands twice in the names and aliases of the site ${lib.head of}; name it once"
) (lib.filterAttrs (_: same: lib.length same > 1) owners)
++ map (
  o: "the site ${o.site} has the name \"${o.host}\", which is no host name; write it as in the address bar, such as \"shop.foobar.com\""
) (
  # The domain's own problem is the cluster's (problems.nix).
  lib.concatLists (lib.attrValues (lib.filterAttrs (host: _: !isHost host && host != lib.toLower cluster.domain) owners))
)

# Sites
++ lib.concatLists (
  lib.mapAttrsToList (
    name: site:
    problem (name == "main") (
      "the site of services.trivet.cluster.domain is called main; give services.trivet.sites.main another name, or move what it "
      + "has to cluster.domain, cluster.aliases and services.trivet.routes"
    )
    ++ problem (!isName name) "the site \"${name}\" has a name that logs and metrics cannot carry; use letters, digits, - _ and ."
    ++ problem (site.names == [ ]) (
      "the site ${name} has no name; set services.trivet.sites.${name}.names to what stands in the address bar, such as [ \"shop.foobar.com\" ]"
    )
    ++ problem (site.certificates == [ ] && !site.useClusterCertificate) (
      "the site ${name} has no certificate; name its files in services.trivet.sites.${name}.certificates, or set "
      + "services.trivet.sites.${name}.useClusterCertificate if site.pem carries its names"
    )
    ++ poolProblem "the site ${name} is served by" site.pool
    ++ lib.concatLists (
      files (number: "certificate ${toString number} of services.trivet.sites.${name}") "/var/lib/acme/${name}" site.certificates
    )
  ) cfg.sites
)
++ lib.concatMap routeProblems all
++ problem (cfg.defaultSite != null && !lib.elem cfg.defaultSite sites) (
  "services.trivet.defaultSite is \"${toString cfg.defaultSite}\", which is no site; the sites are ${list sites}"
)

# Pools
++ lib.concatLists (
  lib.mapAttrsToList (
    name: pool:
    problem (name == "web") (
      "the pool web is the web tiers of the cluster; give services.trivet.pools.web another name, or change its keys in "
      + "services.trivet.balancer.settings.web"
    )
    ++ problem (!isName name) "the pool \"${name}\" has a name that logs and metrics cannot carry; use letters, digits, - _ and ."
    ++ problem (pool.backends == [ ]) (
      "the pool ${name} has no back ends; name them in services.trivet.pools.${name}.backends, such as { ${name}1 = \"10.77.0.31:8080\"; }"
    )
    ++ lib.concatMap (addressProblems name) pool.backends
    ++ lib.optionals (builtins.isAttrs pool.tls) (
      lib.concatMap
        (part: onNode.problems {
          what = "tls.${part} of the pool ${name}";
          path = pool.tls.${part};
          example = "/var/lib/trivet/pools/${name}/${part}.pem";
        })
        [
          "ca"
          "certificate"
          "key"
        ]
      ++ onNode.secretProblems {
        what = "tls.key of the pool ${name}";
        path = pool.tls.key;
        example = "/var/lib/trivet/pools/${name}/key.pem";
      }
    )
  ) cfg.pools
)

# Files beside those of sites
++ lib.concatLists (
  files (number: "certificate ${toString number} of services.trivet.balancer.certificates") "/var/lib/acme/shop.foobar.com"
    cfg.balancer.certificates
)
++ lib.optionals (cfg.balancer.tls.ticketSecret != null) (onNode.problems {
  what = "services.trivet.balancer.tls.ticketSecret";
  path = cfg.balancer.tls.ticketSecret;
  example = "/var/lib/trivet/secrets/ticket.secret";
})
