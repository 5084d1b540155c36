"use strict";
// Elements, numbers, and the page's data. Texts only ever become text nodes and attributes, never HTML.
window.dissect = { data: null, chunks: new Map(), files: {}, waiting: new Map() };

(() => {
  const SVG = "http://www.w3.org/2000/svg";

  function fill(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name === "text") node.textContent = value;
      else node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  }

  dissect.el = (name, attributes, ...children) => fill(document.createElement(name), attributes, children);
  dissect.svg = (name, attributes, ...children) => fill(document.createElementNS(SVG, name), attributes, children);

  dissect.number = (value) => {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value);
    if (size !== 0 && (size < 0.001 || size >= 1e6)) return value.toExponential(1);
    return String(Number(value.toPrecision(size >= 100 ? 4 : 3)));
  };

  // Three digits, with the zeros, for columns of numbers.
  dissect.score = (value) => {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value);
    return value === 0 || (size >= 0.001 && size < 1000) ? value.toPrecision(3) : dissect.number(value);
  };

  // The n-th score of a unit; null if it is unknown.
  dissect.scoreOf = (side, row, n) => (side.c && side.c[n] ? side.c[n][row] : null);

  dissect.tag = (place) => String.fromCharCode(65 + place); // of a run that is compared with others

  dissect.text = (number) => (number === undefined || number < 0 ? "" : dissect.data.texts[number]);
  dissect.unit = (layer, row) => (Array.isArray(layer.units) ? layer.units[row] : row);
  dissect.rows = (layer) => (Array.isArray(layer.units) ? layer.units.length : layer.units);
  dissect.address = (item) => "#" + encodeURIComponent(item.layer.name).replace(/%2F/gi, "/") + "/" + item.unit;

  // Scripts in data/ call these.
  dissect.pictures = (files) => { dissect.files = files; };
  dissect.details = (side, layer, chunk, values) => {
    const key = `${side}-${layer}-${chunk}`;
    dissect.chunks.set(key, values);
    for (const call of dissect.waiting.get(key) || []) call(values);
    dissect.waiting.delete(key);
  };

  // The details of a unit: now if they are here, else once their file has been read.
  // Two runs that show the same top images share them, and the histograms of the same activations.
  dissect.ask = (place, item, call) => {
    const side = dissect.data.shared ? 0 : place;
    const chunk = Math.floor(item.row / dissect.data.chunk);
    const key = `${side}-${item.number}-${chunk}`;
    const give = (values) => call(values && values.units[item.row - chunk * dissect.data.chunk], values);
    if (dissect.chunks.has(key)) return give(dissect.chunks.get(key));
    const first = !dissect.waiting.has(key);
    dissect.waiting.set(key, [...(dissect.waiting.get(key) || []), give]);
    if (!first || dissect.data.single) return undefined;
    const script = dissect.el("script", { src: `data/${key}.js` });
    script.onerror = () => dissect.details(side, item.number, chunk, null);
    document.head.append(script);
    return undefined;
  };
})();
