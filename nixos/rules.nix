# The alerts, each with what happened and what to look at. They say `node`, as the cluster names it.
{
  lib,
  cfg,
  trivet,
}:
let
  inherit (cfg) monitoring;
  alert =
    name: severity: wait: expr: summary: description: {
      alert = name;
      inherit expr;
      "for" = wait;
      labels.severity = severity;
      annotations = { inherit summary description; };
    };
in
{
  groups = [
    {
      name = "trivet";
      rules = [
        (alert "NodeDown" "critical" monitoring.nodeDownAfter ''max by (node) (up{job!="prometheus"}) == 0''
          "{{ $labels.node }} is down"
          "Nothing on {{ $labels.node }} answers. The site goes on without it; look at the machine and its network."
        )
        (alert "ServiceDown" "warning" "1m" ''up == 0 unless on (node) (max by (node) (up) == 0)''
          "{{ $labels.job }} on {{ $labels.node }} does not answer"
          "The machine runs, its {{ $labels.job }} does not: `systemctl status` and `journalctl -u` of its unit there."
        )
      ];
    }
  ];
}
