# Limits that must fit together, although no program sees them all: what a balancer lets in, the web tiers let in as well, with
# what forwarding adds; and a unit has the descriptors that its connections take. limits.json has the programs' defaults
# (tests/defaults.rs compares them).
{
  config,
  lib,
  trivet,
  ...
}:
let
  cfg = config.services.trivet;
  defaults = lib.importJSON ./limits.json;

  # As the programs read sizes; null for what they will refuse.
  factors = lib.listToAttrs (
    lib.concatLists (
      lib.imap1
        (
          power: letter:
          let
            of = base: lib.foldl' (product: _: product * base) 1 (lib.range 1 power);
          in
          [
            (lib.nameValuePair letter (of 1000))
            (lib.nameValuePair "${letter}b" (of 1000))
            (lib.nameValuePair "${letter}i" (of 1024))
            (lib.nameValuePair "${letter}ib" (of 1024))
          ]
        )
        [
          "k"
          "m"
          "g"
          "t"
        ]
    )
  ) // {
    "" = 1;
    b = 1;
  };
  bytes =
    value:
    let
      parts = builtins.match "((0|[1-9][0-9]*)(\\.[0-9]+)?) *([A-Za-z]*)" value;
      unit = lib.toLower (lib.elemAt parts 3);
    in
    if builtins.isInt value then
      value
    else if !builtins.isString value || parts == null || !factors ? ${unit} then
      null
    else
      builtins.floor (builtins.fromJSON (lib.elemAt parts 0) * factors.${unit});

  # What forwarding adds to a request's head (MOST_ADDED, MOST_ADDED_FIELDS in src/http/forwarded.rs).
  added = {
    max_header_size = 16 * 1024;
    max_header_fields = 24;
    max_target_length = 0;
    max_body_size = 0;
  };
  what = {
    max_header_size = "request heads of";
    max_header_fields = "this many fields in a request's head:";
    max_target_length = "request targets of";
    max_body_size = "request bodies of";
  };
  admitted = key: cfg.balancer.settings.https.${key} or defaults.balancer.https.${key};
  # The least that the web tiers must take; null where the balancer's own value is nonsense, which its check will say.
  least =
    key:
    let
      own = bytes (admitted key);
    in
    if own == null then null else lib.foldl' lib.max own (lib.optionals (key == "max_body_size") bodies) + added.${key};
  # A route may let in larger bodies than the rest of its site.
  bodies = lib.filter (size: size != null) (map (route: bytes (route.max_body_size or 0)) routes);
  routes =
    (cfg.balancer.settings.routes or [ ])
    ++ lib.concatMap (site: site.routes or [ ]) (lib.attrValues (cfg.balancer.settings.sites or { }));
  # Their default, or more where the balancers let in more.
  fitting =
    key:
    let
      default = defaults.web.limits.${key};
    in
    if least key == null || least key <= bytes default then
      default
    else if builtins.isInt default then
      least key
    else
      "${toString (least key)}B";
  taken = key: cfg.web.settings.limits.${key} or (if key == "max_body_size" then null else fitting key);
  tooLittle = key: taken key != null && bytes (taken key) != null && least key != null && bytes (taken key) < least key;
  contradiction =
    key:
    "trivet: the balancers let in ${what.${key}} ${toString (admitted key)} (services.trivet.balancer.settings.https.${key}), but the "
    + "web tiers take ${toString (taken key)} (services.trivet.web.settings.limits.${key})"
    + lib.optionalString (added.${key} != 0) ", and forwarding adds up to ${toString added.${key}}"
    + "; leave the latter out, or make it ${toString (least key)} or more";

  # Descriptors, as src/base/process/descriptors.rs counts them: connections to clients and to back ends; unused ones that are kept; the
  # checks of back ends; listeners, log, metrics.
  wanted =
    {
      used,
      kept,
      checked,
    }:
    used + kept + 2 * checked + 1024;
  int = value: if builtins.isInt value then value else 0; # another is refused by the program
  ofBalancer =
    settings:
    let
      of = section: key: if settings ? ${section} then int (settings.${section}.${key} or defaults.balancer.${section}.${key}) else 0;
      pools = lib.optional (settings ? web) settings.web ++ lib.attrValues (settings.pools or { });
      inPools = key: lib.foldl' (sum: pool: sum + int (pool.${key} or defaults.balancer.web.${key})) 0 pools;
      # A name is as many back ends as it may have addresses.
      isName =
        address:
        builtins.isString address && !lib.hasPrefix "unix:" address && builtins.match "[0-9.]+:[0-9]+|[[].*]:[0-9]+" address == null;
      most = pool: int (pool.resolve_max_addresses or defaults.balancer.web.resolve_max_addresses);
      backends = pool: map (b: if isName (b.address or null) then most pool else 1) (pool.backends or [ ]);
      tcp = lib.attrValues (settings.tcp or { });
      inTcp = lib.foldl' (sum: s: sum + int (s.max_connections or defaults.balancer."tcp.mail".max_connections)) 0 tcp;
      tcpPools = lib.concatMap (s: lib.optional (s ? pool) s.pool ++ map (sni: sni.pool) (s.sni or [ ])) tcp;
    in
    {
      key = if settings ? https then "https.max_connections" else "database.max_connections";
      connections = of "https" "max_connections" + of "database" "max_connections" + inTcp;
      used = of "https" "max_connections" + inPools "max_in_flight" + 2 * of "database" "max_connections" + 2 * inTcp;
      # Each back end keeps eight, however few may be kept, or as many as that.
      kept = lib.foldl' builtins.add 0 (
        map (
          pool:
          let
            all = int (pool.max_idle_connections or defaults.balancer.web.max_idle_connections);
          in
          lib.max all (lib.min 8 (lib.max all 1) * lib.foldl' builtins.add 0 (backends pool))
        ) pools
      );
        checked =
          lib.foldl' builtins.add 0 (lib.concatMap backends pools)
          + lib.foldl' builtins.add 0 (lib.concatMap backends tcpPools)
          + 2 * lib.length (settings.database.members or [ ]);
    };
  ofWeb = settings: {
    key = "limits.max_connections";
    connections = int (settings.limits.max_connections or defaults.web.limits.max_connections);
    # One more for each connection: a file.
    used =
      2 * int (settings.limits.max_connections or defaults.web.limits.max_connections)
      + int (settings.app.max_in_flight or defaults.web.app.max_in_flight);
    kept = int (settings.app.max_idle_connections or defaults.web.app.max_idle_connections);
    checked = 1 + lib.length (settings.peers.backends or [ ]);
  };
  units =
    lib.optionalAttrs (trivet.has "balancer") {
      trivet-balancer = ofBalancer cfg.balancer.settings // {
        settings = "balancer";
      };
    }
    // lib.optionalAttrs (trivet.has "app") {
      trivet-gateway = ofBalancer cfg.gateway.settings // {
        settings = "gateway";
      };
      trivet-web = ofWeb cfg.web.settings // {
        settings = "web";
      };
    };
  need = unit: wanted { inherit (unit) used kept checked; };
  # The hard limit, to which the programs raise the soft one.
  hardLimit =
    value:
    let
      last = lib.last (lib.splitString ":" (toString value));
    in
    if last == "infinity" || builtins.match "[0-9]+" last == null then null else lib.toInt last;
in
{
  config = lib.mkIf cfg.enable {
    services.trivet.web.settings.limits = lib.genAttrs (lib.filter (key: fitting key != defaults.web.limits.${key}) [
      "max_header_size"
      "max_header_fields"
      "max_target_length"
    ]) (key: lib.mkDefault (fitting key));

    # No fewer than this: a connection of HTTP/2 carries many requests at once, each of which may want a connection of HTTP/1 to
    # its back end.
    systemd.services = lib.mapAttrs (_: unit: {
      serviceConfig.LimitNOFILE = lib.mkDefault (lib.max 65536 (need unit));
    }) units;

    assertions =
      map (key: {
        assertion = !tooLittle key;
        message = contradiction key;
      }) (lib.attrNames added)
      ++ lib.mapAttrsToList (
        name: unit:
        let
          limit = config.systemd.services.${name}.serviceConfig.LimitNOFILE or null;
          hard = if limit == null then null else hardLimit limit;
        in
        {
          assertion = hard == null || hard >= need unit;
          message =
            "trivet: systemd.services.${name}.serviceConfig.LimitNOFILE is ${toString limit}, but ${toString unit.connections} connections "
            + "(services.trivet.${unit.settings}.settings.${unit.key}) and what belongs to them may want ${toString (need unit)} "
            + "descriptors; leave LimitNOFILE out, or lower that limit";
        }
      ) units;
  };
}
