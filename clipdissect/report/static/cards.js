"use strict";
// One unit: as a card in the list, and large on its own.
(() => {
  const { el, svg, number, text } = dissect;
  const FLAGS = [[1, "dead", "the same activation on every image"], [2, "tied", "the two best scores are closer than the arithmetic tells apart"],
    [4, "few distinct", "few different activations"], [8, "low margin", "the runner-up fits as well"],
    [16, "saturated", "at its largest activation at more positions than it may fire at"],
    [32, "rare", "fires on fewer images than a score uses: its score is high by chance"]];
  const MOST_BARS = 5;

  function badges(item) {
    const flags = item.layer.sides.reduce((all, side) => all | side.f[item.row], 0);
    const list = FLAGS.filter(([bit]) => flags & bit).map(([, name, why]) => el("span", { class: "badge", title: why, text: name }));
    if (item.layer.r) {
      const right = item.layer.r[item.row];
      list.push(el("span", { class: right ? "badge right" : "badge wrong", text: ["✗ wrong", "✓ right", "✓ a synonym"][right] }));
    }
    if (item.layer.near) {
      const near = item.layer.near[item.row];
      const same = item.layer.same[item.row];
      list.push(el("span", { class: same ? "badge right" : "badge", text: same ? "same" : near === null ? "changed" : `similarity ${near.toFixed(2)}` }));
    }
    const closeness = dissect.closeness(item);
    if (closeness !== null) list.push(el("span", { class: "badge", text: `closeness ${closeness.toFixed(2)}` }));
    const several = Math.max(0, ...item.layer.sides.map((side) => meaningsOf(side, item.row).length));
    const ranges = item.layer.sides.some((side) => areRanges(meaningsOf(side, item.row)));
    if (several) list.push(el("span", { class: "badge", title: ranges ? "ranges of its activations have their own descriptions" : "its top images are of several kinds", text: `${several} ${ranges ? "ranges" : "meanings"}` }));
    return el("span", { class: "badges" }, ...list);
  }

  // Of a unit with several: [text, score, null, share, images, lower, upper] each; clusters of top
  // images have no lower and upper end.
  function meaningsOf(side, row) { return (side.g && side.g[row]) || []; }
  function areRanges(several) { return several.some((meaning) => meaning[5] !== null); }

  function descriptionOf(side, row) {
    const several = meaningsOf(side, row);
    if (several.length && !areRanges(several)) return several.map(([first]) => text(first)).join(" | ");
    const first = side.d[row][0];
    return first === undefined ? "no description" : text(first);
  }

  function bars(side, row, most) {
    const span = side.high - side.low || 1;
    const list = el("ol", { class: "bars", "aria-label": "Descriptions and scores" });
    for (let rank = 0; rank < most; rank += 1) {
      const known = side.d[row][rank] !== undefined;
      const score = known ? side.s[row][rank] : undefined;
      const bar = el("i", { "aria-hidden": "true" });
      if (score !== undefined) bar.style.width = `${Math.max(1, (100 * (score - side.low)) / span)}%`;
      const words = known ? text(side.d[row][rank]) : "";
      list.append(el("li", known ? {} : { class: "empty", "aria-hidden": "true" }, bar,
        el("span", { title: words, text: words || " " }), el("b", { text: score === undefined ? "" : dissect.score(score) })));
    }
    return list;
  }

  function histogram(details) {
    const box = el("figure", { class: "histogram" });
    if (!details || !details.h) return box;
    const most = Math.max(...details.h);
    const total = details.h.reduce((sum, count) => sum + count, 0);
    const label = `Activations of ${total} images, from ${number(details.lo)} to ${number(details.hi)}`;
    const root = svg("svg", { viewBox: `0 0 ${details.h.length * 10} 64`, preserveAspectRatio: "none", role: "img", "aria-label": label });
    // Roots of the counts: a few large activations among thousands must still be seen.
    details.h.forEach((count, bin) => {
      const height = 64 * Math.sqrt(count / most);
      if (count) root.append(svg("rect", { x: bin * 10 + 0.5, y: 64 - height, width: 9, height }));
    });
    box.append(root, el("figcaption", {}, el("span", { text: number(details.lo) }), el("span", { text: "activation" }), el("span", { text: number(details.hi) })));
    return box;
  }

  // The patches of a heat map at which a latent fires: see `heat_maps` in outlines.py.
  function firingPatches(heat, columns) {
    const patches = [];
    let place = 0;
    for (const sign of heat) {
      const silent = sign >= "a";
      if (!silent) patches.push([place % columns, Math.floor(place / columns), Number(sign) / 9]);
      place += silent ? parseInt(sign, 36) - 9 : 1;
    }
    const [width, height] = [100 / columns, (100 * columns) / place];
    return patches.map(([x, y, share]) => ({ x: x * width, y: y * height, width, height, share }));
  }

  // Silent patches are the darkest, and a firing one the brighter, the larger its activation.
  function shades(heat, columns) {
    const patches = firingPatches(heat, columns);
    const holes = patches.map(({ x, y, width, height }) => `M${x} ${y}h${width}v${height}h${-width}Z`);
    const rects = patches.map(({ share, ...place }) => svg("rect", { class: "dim heat", ...place, opacity: 0.8 * (1 - share) }));
    return [svg("path", { class: "dim heat", d: `M0 0H100V100H0Z${holes.join("")}` }), ...rects];
  }

  function overlay(path, heat, columns) {
    const root = svg("svg", { class: "region", viewBox: "0 0 100 100", preserveAspectRatio: "none", "aria-hidden": "true" });
    const dim = heat ? shades(heat, columns) : [svg("path", { class: "dim", d: `M0 0H100V100H0Z${path}` })];
    root.append(...dim, svg("path", { class: "edge", d: path }));
    return root;
  }

  function missing(name) { return el("span", { class: "missing", text: name || "no picture" }); }

  function picture(details, chunk, rank, words, large) {
    const [name, file, own] = chunk.images[details.i[rank]];
    const activation = number(details.v[rank]);
    const box = el("div", { class: "frame" });
    const source = file && (dissect.files[file] || (dissect.data.single ? null : `thumbnails/${file}`));
    if (source) {
      const image = el("img", { src: source, alt: `Top image ${rank + 1} of ${words}: ${name}, activation ${activation}`,
        loading: large ? "eager" : "lazy", decoding: "async", title: `${name}\nactivation ${activation}` });
      image.onerror = () => box.replaceChildren(missing(name));
      box.append(image);
      if (details.p && details.p[rank]) box.append(overlay(details.p[rank], details.q && details.q[rank], details.w));
    } else box.append(missing(name));
    if (details.g && details.g[rank]) box.append(el("span", { class: "meaning", title: `meaning ${details.g[rank]}`, text: details.g[rank] }));
    if (!large) return el("li", {}, box);
    const label = own ? el("a", { href: encodeURI(`file://${own}`), text: name }) : el("span", { text: name });
    const near = dissect.data.search ? el("button", { type: "button", "data-near": name, title: "All units, the closest to this picture first", text: "Find units" }) : null;
    return el("li", {}, el("figure", {}, box, el("figcaption", {}, label, el("b", { text: activation }), near)));
  }

  // Empty frames, filled once the unit's details are here.
  function strip(item, place, large) {
    const slots = dissect.data.slots[place];
    const empty = (count) => Array.from({ length: Math.max(0, count) }, () => el("li", {}, el("div", { class: "frame" })));
    const box = el("ul", { class: large ? "strip large" : "strip", "aria-label": "Top images" }, ...empty(slots));
    box.style.setProperty("--slots", Math.min(5, slots));
    const words = `unit ${item.unit}, ${descriptionOf(item.layer.sides[place], item.row)}`;
    dissect.ask(place, item, (details, chunk) => {
      if (!details) return;
      const items = details.i.map((_, rank) => picture(details, chunk, rank, words, large));
      box.replaceChildren(...items, ...empty(slots - items.length)); // latents may fire on fewer
    });
    return box;
  }

  function line(name, value) {
    return el("p", { class: "line" }, el("span", { text: name }), el("b", { title: value, text: value || "–" }));
  }

  // Layers without classes keep the place of the class, so that all cards are equally high.
  function knownTexts(item, large) {
    const lines = [];
    const { layer, row } = item;
    if (layer.t) {
      const rank = layer.k[row] !== null && layer.k[row] > 1 ? ` (rank ${layer.k[row]})` : "";
      lines.push(line("class", text(layer.t[row]) + rank));
    } else if (dissect.data.hasTruth && !large) lines.push(el("p", { class: "line" }, "\u00a0"));
    (dissect.data.others || []).forEach((name, other) => lines.push(line(name, layer.o ? text(layer.o[other][row]) : "")));
    return lines;
  }

  function numbers(item, side) {
    const parts = [["margin", side.m[item.row]], ["null", side.n ? side.n[item.row] : null]];
    if (item.layer.a) parts.push(["agreement", item.layer.a[item.row]]);
    const shown = parts.filter(([, value]) => value !== null);
    return el("dl", { class: "small" }, ...shown.map(([name, value]) => el("div", {}, el("dt", { text: name }), el("dd", { text: dissect.score(value) }))));
  }

  // In a list, unknown scores keep their places, so that all cards are equally high.
  function scores(item, side, large) {
    const cells = dissect.data.scores.map((score, n) => {
      const value = dissect.scoreOf(side, item.row, n);
      const title = [score.title, score.words].filter(Boolean).join(": ");
      return el("div", { title, class: value === null ? "unknown" : null }, el("dt", { text: large ? score.title : score.short }), el("dd", { text: dissect.score(value) }));
    });
    return cells.length ? el("dl", { class: "scores", title: scoredAs(item, side) ? `Scores are of: ${scoredAs(item, side)}` : null }, ...cells) : null;
  }

  // The description that the scores are of; empty if it is the one shown.
  function scoredAs(item, side) { return side.e ? text(side.e[item.row]) : ""; }

  // Of a latent of a sparse autoencoder; on its own only, for all cards are equally high.
  function firing(item, side) {
    const fires = side.x ? side.x[item.row] : null;
    if (fires === null) return null;
    const all = side.images ? ` of ${side.images.toLocaleString("en")}` : "";
    const share = `${number(100 * side.y[item.row])} % of tokens`;
    return el("p", { class: "firing" }, el("span", { text: "fires" }), " ", el("b", { text: `on ${fires.toLocaleString("en")}${all} images, ${share}` }));
  }

  function meanings(item, side) {
    const several = meaningsOf(side, item.row);
    if (!several.length) return [];
    const ranges = areRanges(several);
    const rows = several.map(([words, score, chance, share, images, low, high], place) => el("li", {},
      el("span", { class: "meaning", text: place + 1 }), el("b", { text: words < 0 ? "no description" : text(words) }),
      el("span", { text: `${ranges ? `${number(low)} to ${number(high)}, ` : ""}${number(100 * share)} % of the ${ranges ? "positions" : "activation"}, ${images} images${chance === null ? "" : `, null ${dissect.score(chance)}`}` }), el("i", { text: score === null ? "" : dissect.score(score) })));
    const lead = ranges ? "Ranges of activations, the highest first" : "Meanings, by their share of the top images' activation";
    return [el("p", { class: "lead", text: lead }), el("ol", { class: "meanings", "aria-label": ranges ? "Ranges" : "Meanings" }, ...rows)];
  }

  // Links to the latents with similar directions in the decoder; those that aren't listed have none.
  function neighbours(item, side, details) {
    if (!details.nb || !details.nb.length) return [];
    const rows = details.nb.map(([unit, cosine]) => {
      const row = Array.isArray(item.layer.units) ? item.layer.units.indexOf(unit) : unit;
      const known = row >= 0;
      const content = [el("b", { text: unit }), el("span", { text: known ? descriptionOf(side, row) : "" }), el("i", { text: cosine.toFixed(2) })];
      return el("li", {}, known ? el("a", { href: dissect.address({ layer: item.layer, unit }) }, ...content) : el("span", {}, ...content));
    });
    return [el("p", { class: "lead", text: "Nearest in the decoder, by cosine" }), el("ol", { class: "neighbours", "aria-label": "Neighbours in the decoder" }, ...rows)];
  }

  function sideOf(item, side, place, large) {
    const plot = el("div", { class: "plot" }, histogram(null), numbers(item, side), large ? firing(item, side) : null);
    const most = large ? side.d[item.row].length : Math.min(MOST_BARS, dissect.data.most);
    const heading = el(large ? "h2" : "h3", { class: side.d[item.row].length ? "" : "none" });
    const content = [];
    if (dissect.data.sides.length > 1) content.push(el("span", { class: "tag", text: dissect.tag(place), title: dissect.data.sides[place] }));
    const label = el("span", { text: descriptionOf(side, item.row), title: descriptionOf(side, item.row) });
    content.push(large || place ? label : el("a", { href: dissect.address(item), class: "open" }, label));
    heading.append(...content);
    const box = el("div", { class: "side" }, heading);
    if (dissect.data.slots[place] && !dissect.data.shared) box.append(strip(item, place, large));
    if (large) box.append(...meanings(item, side));
    box.append(el("div", { class: "below" }, bars(side, item.row, most), plot), ...[scores(item, side, large)].filter(Boolean));
    if (large && scoredAs(item, side)) box.append(line("scores are of", scoredAs(item, side)));
    dissect.ask(place, item, (details) => {
      if (!details) return;
      plot.replaceChild(histogram(details), plot.firstChild);
      if (large) box.append(...neighbours(item, side, details));
    });
    return box;
  }

  function contents(item, large) {
    const name = el("span", { class: "name" }, el("span", { text: item.layer.name, title: item.layer.name }), el("b", { text: item.unit }));
    const content = [
      el("div", { class: "head" }, name, badges(item)),
      dissect.data.shared ? strip(item, 0, large) : null,
      el("div", { class: "sides" }, ...item.layer.sides.map((side, place) => sideOf(item, side, place, large))),
      el("div", { class: item.layer.t || item.layer.o ? "known" : "known blank" }, ...knownTexts(item, large)),
    ];
    return content.filter(Boolean);
  }

  dissect.card = (item) => el("div", { class: "card", role: "listitem" }, ...contents(item, false));
  dissect.large = (item) => el("article", { class: "card one" }, ...contents(item, true));
})();
