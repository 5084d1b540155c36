"use strict";
// The order of the units by their closeness to a listed word or to a picture.
(() => {
  const { el } = dissect;
  const MOST_RANDOM = 1000; // words that tell how close some unit is by chance
  const MOST_OFFERED = 30;
  const ALPHA = 0.05;
  const UNIT_SIZE = 127; // the largest number of a row
  let table = null;
  let loading = null;
  let loaded = () => {};
  let asked = "";
  let cosines = null; // of the query and each unit, in the page's order; null without a query
  let chance = null; // the largest cosine with any unit of each random word

  const bytes = (text) => Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
  function decoded({ rows, scales, names }) {
    const numbers = new Map((names || []).map((name, row) => [name.toLowerCase(), row]));
    return { rows: new Int8Array(bytes(rows).buffer), scales: new Float32Array(bytes(scales).buffer), names, numbers };
  }

  // The file's script calls this.
  dissect.meaning = ({ dims, units, texts, images }) => {
    table = { dims, units: decoded(units), texts: decoded(texts), images: decoded(images) };
    loaded();
  };

  function load() {
    if (table) return Promise.resolve();
    loading = loading || new Promise((done) => {
      loaded = done;
      const script = el("script", { src: "data/meaning.js" });
      script.onerror = done;
      document.head.append(script);
    });
    return loading;
  }

  // Products of a row and each unit's; null for units without a vector, whose scale is tiny.
  function products({ rows, scales }, row) {
    const { dims, units } = table;
    return Array.from(units.scales, (scale, unit) => {
      if (scale * UNIT_SIZE < 1e-6) return null;
      let sum = 0;
      for (let at = unit * dims, own = row * dims, end = at + dims; at < end; at += 1, own += 1) sum += units.rows[at] * rows[own];
      return sum * scale * scales[row];
    });
  }

  const largest = (values) => values.reduce((most, value) => (value !== null && value > most ? value : most), -1);

  function share(best) {
    const { texts } = table;
    const step = Math.max(1, Math.floor(texts.names.length / MOST_RANDOM));
    const random = Array.from({ length: Math.min(MOST_RANDOM, texts.names.length) }, (_, n) => n * step);
    chance = chance || random.map((row) => largest(products(texts, row)));
    return (1 + chance.filter((value) => value >= best).length) / (1 + chance.length);
  }

  function described(name, isWord) {
    if (!isWord) return `Closest to the picture ${name} first.`;
    const p = share(largest(cosines));
    const words = chance.length.toLocaleString("en");
    if (p > ALPHA) return `No unit answers “${name}”: ${Math.round(100 * p)} % of ${words} random words come as close to some unit.`;
    return `Closest to “${name}” first. ${Math.round(1000 * p) / 10} % of ${words} random words come as close to some unit.`;
  }

  function search(name) {
    cosines = null;
    if (!name) return "";
    if (!table) return "The file data/meaning.js is missing, so the units can't be searched by meaning.";
    const key = name.toLowerCase();
    const part = [table.texts, table.images].find(({ numbers }) => numbers.has(key));
    if (!part) return `“${name}” isn't one of the ${table.texts.names.length.toLocaleString("en")} listed words. For any text: clipdissect find <run> "${name}"`;
    cosines = products(part, part.numbers.get(key));
    return described(name, part === table.texts);
  }

  // Search for a word or a picture's name, and call `done` if the order changed.
  dissect.seek = (text, done) => {
    const name = text.trim();
    if (name === asked) return;
    asked = name;
    const answer = () => {
      if (asked !== name) return; // another one was asked meanwhile
      const note = document.getElementById("meaning-note");
      note.textContent = search(name);
      note.hidden = !note.textContent;
      done();
    };
    if (name) load().then(answer);
    else answer();
  };

  dissect.closeness = (item) => (cosines ? cosines[item.place] : null);

  // Listed words that begin with the letters, then those that have them elsewhere.
  dissect.offer = (letters, list) => load().then(() => {
    const key = letters.trim().toLowerCase();
    const names = key && table ? table.texts.names.filter((name) => name.toLowerCase().includes(key)) : [];
    names.sort((one, other) => Number(other.toLowerCase().startsWith(key)) - Number(one.toLowerCase().startsWith(key)) || one.length - other.length);
    list.replaceChildren(...names.slice(0, MOST_OFFERED).map((name) => el("option", { value: name })));
  });
})();
