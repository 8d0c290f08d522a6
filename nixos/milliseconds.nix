# Prometheus' durations, such as 90s or 1h30m, in milliseconds; null for what is none.
{ lib }:
let
  milliseconds =
    text:
    let
      unit = {
        ms = 1;
        s = 1000;
        m = 60 * unit.s;
        h = 60 * unit.m;
        d = 24 * unit.h;
        w = 7 * unit.d;
        y = 365 * unit.d;
      };
      part = builtins.match "([1-9][0-9]{0,8})(ms|[smhdwy])(.*)" text;
      rest = milliseconds (lib.elemAt part 2);
    in
    if text == "" then
      0
    else if part == null || rest == null then
      null
    else
      lib.toInt (lib.head part) * unit.${lib.elemAt part 1} + rest;
in
milliseconds
