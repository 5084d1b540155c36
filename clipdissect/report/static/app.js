"use strict";
// Search, filters, order, links, keys, theme and printing.
(() => {
  const by = (id) => document.getElementById(id);
  const { el } = dissect;
  const MOST_PRINTED = 200;
  let items = [];
  let scrolled = 0;
  const FIELDS = ["search", "meaning", "layer", "show", "score", "threshold", "sort"]; // whose state is in the address
  const choice = { query: "", layer: "", show: null, sort: null, turned: false };

  const flag = (bit) => (item) => item.layer.sides.some((side) => side.f[item.row] & bit);
  const SHOWS = {
    all: ["all units", () => true],
    described: ["described", (item) => item.layer.sides.some((side) => side.d[item.row].length > 0)],
    changed: ["changed", (item) => item.layer.same && !item.layer.same[item.row]],
    same: ["same", (item) => item.layer.same && Boolean(item.layer.same[item.row])],
    right: ["right", (item) => item.layer.r && item.layer.r[item.row] === 1],
    wrong: ["wrong", (item) => item.layer.r && item.layer.r[item.row] === 0],
    low: ["low margin", flag(8)], tied: ["tied", flag(2)], few: ["few distinct", flag(4)], rare: ["rare", flag(32)], dead: ["dead", flag(1)], saturated: ["saturated", flag(16)],
  };
  const value = (cell) => (cell === undefined ? null : cell);
  const score = (place) => (item) => (item.layer.sides[place] ? value(item.layer.sides[place].s[item.row][0]) : null);
  const firing = (name) => (item) => (item.layer.sides[0][name] ? item.layer.sides[0][name][item.row] : null);
  const SORTS = {
    // Outside the cosines' range: equal texts last, changed ones without a similarity first.
    near: ["changed first", (item) => (item.layer.same[item.row] ? 2 : item.layer.near[item.row] ?? -2), false],
    score: ["score", score(0), true, flag(32)], // the scores of rare latents are high by chance: last
    margin: ["margin", (item) => value(item.layer.sides[0].m[item.row]), true, flag(32)],
    fires: ["fires", firing("x"), true],
    density: ["density", firing("y"), true],
    agreement: ["agreement", (item) => (item.layer.a ? item.layer.a[item.row] : null), true],
    meaning: ["closeness", (item) => dissect.closeness(item), true],
    unit: ["unit", (item) => item.place, false],
    description: ["description", (item) => (item.layer.sides[0].d[item.row].length ? dissect.text(item.layer.sides[0].d[item.row][0]) : null), false],
  };

  // The scores of the other compared runs.
  function scoresOfOthers() {
    dissect.data.sides.slice(1).forEach((_, n) => {
      const tag = dissect.tag(n + 1);
      SORTS[`score${tag}`] = [`score of ${tag}`, score(n + 1), true, flag(32)];
    });
  }

  // Whether any side's score is at least the threshold; at most, where smaller ones are better.
  function threshold() {
    const [chosen, least] = by("score") ? [by("score").value, by("threshold").valueAsNumber] : ["", NaN];
    if (chosen === "" || Number.isNaN(least)) return () => true;
    const n = dissect.data.scores.findIndex(({ name }) => name === chosen);
    const { low } = dissect.data.scores[n];
    const fits = (value) => value !== null && (low ? value <= least : value >= least);
    return (item) => item.layer.sides.some((side) => fits(dissect.scoreOf(side, item.row, n)));
  }

  // Adds the page's scores to the orders and the filter.
  function scores() {
    dissect.data.scores.forEach(({ name, title, low }, n) => {
      dissect.data.sides.forEach((_, place) => {
        if (!dissect.data.layers.some((layer) => layer.sides[place].c[n])) return;
        const key = (item) => dissect.scoreOf(item.layer.sides[place], item.row, n);
        SORTS[`${name}-${place}`] = [place ? `${title} of ${dissect.tag(place)}` : title, key, !low];
        by("sort").append(el("option", { value: `${name}-${place}`, text: SORTS[`${name}-${place}`][0] }));
      });
      by("score").append(el("option", { value: name, text: `${title} at ${low ? "most" : "least"}` }));
    });
  }

  function offered() {
    const layers = dissect.data.layers;
    const compares = dissect.data.sides.length > 1;
    const scored = (place) => layers.some((layer) => layer.sides[place] && layer.sides[place].s.some((scores) => scores.length));
    const others = dissect.data.sides.slice(1).map((_, n) => [`score${dissect.tag(n + 1)}`, scored(n + 1)]);
    const has = { near: compares, score: scored(0), ...Object.fromEntries(others), margin: layers.some((layer) => layer.sides[0].m.some((margin) => margin !== null)),
      fires: layers.some((layer) => layer.sides[0].x), density: layers.some((layer) => layer.sides[0].y), agreement: layers.some((layer) => layer.a), meaning: by("meaning"), unit: true, description: true };
    return Object.keys(SORTS).filter((name) => has[name]);
  }

  function options() {
    scoresOfOthers();
    for (const [name, [label, test]] of Object.entries(SHOWS)) {
      const count = items.filter(test).length;
      const whole = count === items.length && name !== "all" && name !== "wrong" && name !== "changed";
      if (count && !whole) by("show").append(el("option", { value: name, text: name === "all" ? label : `${label} (${count.toLocaleString("en")})` }));
    }
    for (const name of offered()) by("sort").append(el("option", { value: name, text: SORTS[name][0] }));
    scores();
  }

  function read() {
    choice.query = by("search").value;
    choice.layer = by("layer").value;
    const [shows, fits] = [SHOWS[by("show").value][1], threshold()];
    choice.show = { test: (item) => shows(item) && fits(item) };
    const [, key, down, last] = SORTS[by("sort").value];
    choice.sort = { key, down, last };
  }

  function update() {
    read();
    const listed = dissect.choose(items, choice);
    const total = listed.length === items.length ? "" : ` of ${items.length.toLocaleString("en")}`;
    by("count").textContent = `${listed.length.toLocaleString("en")}${total} units`;
    by("none").hidden = listed.length > 0;
    const down = choice.sort.down !== choice.turned;
    by("order").textContent = down ? "↓" : "↑";
    by("order").title = `${down ? "Largest" : "Smallest"} first; reverse (o)`;
  }

  function changed() {
    update();
    remember();
    const toolbar = document.querySelector(".toolbar");
    if (toolbar.getBoundingClientRect().top <= 0) by("units").scrollIntoView();
  }

  // Orders by closeness while there is a word or picture to be close to.
  function seek() {
    by("sort").value = by("meaning").value.trim() ? "meaning" : first(by("sort"));
    choice.turned = false;
    dissect.seek(by("meaning").value, changed);
  }

  // Links: #layer/unit is one unit, everything else the list; the list's filters follow a "?".
  const fields = () => FIELDS.map(by).filter(Boolean);
  const first = (field) => (field.options ? field.options[0].value : "");

  function state() {
    const chosen = fields().filter((field) => field.value !== first(field)).map((field) => [field.id, field.value]);
    return String(new URLSearchParams(choice.turned ? [...chosen, ["turned", "yes"]] : chosen));
  }

  function remember() {
    const chosen = state();
    const isList = document.body.dataset.view === "list";
    if (!chosen && !location.hash.includes("?")) return;
    const place = isList ? "#units" : dissect.address(dissect.opened);
    try { history.replaceState(null, "", chosen ? `${place}?${chosen}` : place); } catch { /* a page of another origin */ }
  }

  function restore() {
    const [, query] = /^#[^?]*\?(.*)$/.exec(location.hash) || [];
    if (query === undefined || query === state()) return false;
    const chosen = new URLSearchParams(query);
    for (const field of fields()) {
      field.value = chosen.get(field.id) ?? first(field);
      if (field.selectedIndex < 0) field.value = first(field);
    }
    choice.turned = chosen.has("turned");
    if (by("meaning")) dissect.seek(by("meaning").value, update);
    return true;
  }

  // The part of the address before the filters.
  function place() {
    const address = location.hash.slice(1).split("?")[0];
    try { return decodeURIComponent(address); } catch { return address; }
  }

  function wanted() {
    const address = place();
    const cut = address.lastIndexOf("/");
    if (cut < 0) return null;
    return items.find((item) => item.layer.name === address.slice(0, cut) && String(item.unit) === address.slice(cut + 1)) || null;
  }

  function route() {
    const item = wanted();
    const before = document.body.dataset.view;
    if (item) {
      if (before === "list") scrolled = scrollY;
      document.body.dataset.view = "one";
      one(item);
      remember();
      scrollTo(0, 0);
    } else {
      absent();
      document.body.dataset.view = "list";
      by("one").hidden = true;
      if (restore()) update();
      if (before === "one") { dissect.redraw(); back(); } // else the list is there, and keeps its focus
      remember();
    }
  }

  // Says that a link leads to no unit of this page.
  function absent() {
    const address = place();
    const known = address === "" || by(address);
    by("absent").hidden = Boolean(known);
    by("absent").textContent = known ? "" : `This page has no unit ${address}.`;
  }

  function back() {
    scrollTo(0, scrolled);
    const index = dissect.listed().indexOf(dissect.opened);
    if (index >= 0) dissect.focusOn(index);
  }

  function around(item) {
    const listed = dissect.listed();
    const all = listed.includes(item) ? listed : items;
    const index = all.indexOf(item);
    return { previous: all[index - 1], next: all[index + 1], words: `${(index + 1).toLocaleString("en")} of ${all.length.toLocaleString("en")}` };
  }

  function one(item) {
    dissect.opened = item;
    const { previous, next, words } = around(item);
    const step = (to, name, label, key) => el("a", to ? { class: "button", id: name, href: dissect.address(to), title: `${label} (${key})`, text: label } : { class: "button off", text: label });
    const bar = el("nav", { "aria-label": "Units" }, el("a", { class: "button", id: "all", href: "#units", title: "Back to the list (Esc)", text: "← All units" }),
      step(previous, "previous", "Previous", "k"), el("span", { text: words }), step(next, "next", "Next", "j"));
    by("one").replaceChildren(bar, dissect.large(item));
    by("one").hidden = false;
    document.title = `${item.layer.name}/${item.unit} - ${dissect.title}`;
  }

  function move(step) {
    if (document.body.dataset.view === "one") {
      const link = by(step > 0 ? "next" : "previous");
      if (link) location.replace(link.getAttribute("href"));
      return;
    }
    const listed = dissect.listed();
    if (!listed.length) return;
    const now = dissect.focused();
    dissect.focusOn(now === null ? dissect.firstVisible() : Math.min(listed.length - 1, Math.max(0, now + step)));
  }

  const THEMES = ["auto", "light", "dark"];
  function theme(next) {
    const root = document.documentElement;
    if (next) {
      root.dataset.theme = THEMES[(THEMES.indexOf(root.dataset.theme) + 1) % THEMES.length];
      try { localStorage.setItem("clipdissect-theme", root.dataset.theme); } catch { /* a private window */ }
    }
    by("theme").textContent = { auto: "Theme: system", light: "Theme: light", dark: "Theme: dark" }[root.dataset.theme];
  }

  function regions() {
    const off = document.body.dataset.regions === "off";
    document.body.dataset.regions = off ? "on" : "off";
    by("regions").setAttribute("aria-pressed", String(off));
  }

  function print() {
    const listed = dissect.listed().slice(0, MOST_PRINTED);
    const wait = listed.flatMap((item) => item.layer.sides.map((_, side) => new Promise((done) => { dissect.ask(side, item, done); })));
    const limit = new Promise((done) => { setTimeout(done, 5000); });
    Promise.race([Promise.all(wait), limit]).then(() => window.print());
  }

  const KEYS = {
    "/": () => { if (document.body.dataset.view === "one") location.hash = "units"; by("search").focus(); by("search").select(); },
    j: () => move(1), k: () => move(-1), ArrowDown: () => move(1), ArrowUp: () => move(-1),
    ArrowRight: () => move(1), ArrowLeft: () => move(-1),
    Escape: () => { if (document.body.dataset.view === "one") location.hash = "units"; },
    o: () => by("order").click(), r: () => { if (!by("regions").hidden) regions(); }, t: () => theme(true), p: print,
    "?": () => by("help").showModal(),
  };

  function key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || by("help").open) return;
    const field = event.target.closest && event.target.closest("input, select");
    if (field) {
      if (event.key === "Escape") {
        if (["search", "meaning"].includes(field.id) && field.value) {
          event.preventDefault();
          field.value = "";
          if (field.id === "meaning") seek(); else changed();
        }
        field.blur();
        return;
      }
      if (event.key === "Enter" && ["search", "meaning"].includes(field.id)) { field.blur(); dissect.focusOn(0); event.preventDefault(); }
      return;
    }
    const arrows = event.key.startsWith("Arrow");
    if (arrows && document.body.dataset.view === "list" && dissect.focused() === null) return; // they scroll
    const act = KEYS[event.key];
    if (act) { event.preventDefault(); act(); }
  }

  function clear() {
    const isSought = by("meaning") && by("meaning").value;
    for (const field of fields()) if (field.id !== "sort") field.value = first(field);
    if (isSought) seek();
  }

  // What is folded on the screen is printed with the list.
  const folded = [];
  function unfold() {
    folded.push(...document.querySelectorAll("main details:not([open])"));
    for (const details of folded) details.open = true;
  }
  function fold() { for (const details of folded.splice(0)) details.open = false; }

  function listen() {
    let timer;
    by("search").addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(changed, 80); });
    if (by("meaning")) {
      by("meaning").addEventListener("input", () => dissect.offer(by("meaning").value, by("listed")));
      by("meaning").addEventListener("change", seek);
      by("one").addEventListener("click", ({ target }) => {
        if (target.dataset.near === undefined) return;
        by("meaning").value = target.dataset.near;
        location.hash = "units";
        seek();
      });
    }
    for (const field of ["layer", "show", "score"].map(by).filter(Boolean)) field.addEventListener("change", changed);
    if (by("threshold")) by("threshold").addEventListener("input", changed);
    by("sort").addEventListener("change", () => { choice.turned = false; changed(); });
    by("order").addEventListener("click", () => { choice.turned = !choice.turned; changed(); });
    by("regions").addEventListener("click", regions);
    by("theme").addEventListener("click", () => theme(true));
    by("print").addEventListener("click", print);
    by("help-open").addEventListener("click", () => by("help").showModal());
    by("reset").addEventListener("click", () => { clear(); changed(); });
    for (const chip of document.querySelectorAll("[data-search]")) {
      chip.addEventListener("click", () => {
        clear();
        by("search").value = `"${chip.dataset.search}"`;
        by("layer").value = chip.dataset.layer;
        changed();
        by("units").scrollIntoView();
      });
    }
    addEventListener("keydown", key);
    addEventListener("hashchange", route);
    addEventListener("beforeprint", () => { if (document.body.dataset.view === "list") { unfold(); dissect.lay(MOST_PRINTED); } });
    addEventListener("afterprint", () => { fold(); if (document.body.dataset.printing) dissect.unlay(); });
  }

  function prepare(data) {
    if (!data.search && by("meaning")) by("meaning").closest("label").remove(); // a single file without the table
    dissect.data = data;
    dissect.title = document.title;
    data.hasTruth = data.layers.some((layer) => layer.t);
    data.most = 1; // descriptions of a unit
    for (const layer of data.layers) for (const side of layer.sides) for (const texts of side.d) data.most = Math.max(data.most, texts.length);
    data.layers.forEach((layer, number) => {
      for (let row = 0; row < dissect.rows(layer); row += 1) items.push({ layer, number, row, unit: dissect.unit(layer, row), place: items.length });
    });
  }

  dissect.start = (data) => {
    prepare(data);
    if (data.cut) document.querySelector("main").prepend(el("p", { class: "warning", role: "note", text: data.cut }));
    by("regions").hidden = !data.regions;
    document.body.dataset.regions = "on";
    document.body.dataset.view = wanted() ? "one" : "list"; // a link to one unit loads no others
    options();
    theme(false);
    listen();
    restore();
    update();
    route();
    if (location.hash.startsWith("#units?")) by("units").scrollIntoView();
    document.body.dataset.ready = "yes";
  };
})();
