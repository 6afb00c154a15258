// The graphics card blends, scales and compares. The cost of a frame depends on the screen, not on the
// picture; the three branches and the map stay on the card.

import { shares, showsPixels } from "./shares.js";

const BRANCHES = ["psnr", "fused", "gan"];

const CORNERS = `#version 300 es
void main() {
  gl_Position = vec4(4 * (gl_VertexID & 1) - 1, 2 * (gl_VertexID & 2) - 1, 0, 1);
}`;

// Integer arithmetic: where pixels are shown at 1:1 or larger, colours equal those that the service
// computes, by one trade-off or by a map.
const COLOURS = `#version 300 es
precision highp float;
precision highp int;
precision highp sampler2D;
precision highp usampler2D;
uniform sampler2D psnr, fused, gan, before;
uniform usampler2D levels;
uniform ivec2 whole;     // the result, in its pixels
uniform vec4 area;       // the part of it that this layer covers
uniform vec3 place;      // canvas pixel of the result's corner, canvas pixels for one of its own
uniform float height;    // of the canvas
uniform int position;    // twice the trade-off, in 256ths
uniform bool isBefore, exact, squares, hasMap;
out vec4 colour;

vec4 pick(sampler2D picture, vec2 inside, bool nearest) {
  if (!nearest) return texture(picture, inside);
  vec2 size = vec2(textureSize(picture, 0));
  return texelFetch(picture, ivec2(clamp(floor(inside * size), vec2(0), size - 1.0)), 0);
}

int level(ivec2 sample_) {
  return int(texelFetch(levels, sample_, 0).r);
}

int mapped(ivec2 pixel) {
  ivec2 size = textureSize(levels, 0);
  ivec2 at = clamp((2 * pixel + 1) * size - whole, ivec2(0), 2 * whole * (size - 1));
  ivec2 one = at / (2 * whole);
  ivec2 share = (256 * (at - 2 * whole * one) + whole) / (2 * whole);
  ivec2 other = min(one + 1, size - 1);
  int above = level(one) * (256 - share.x) + level(ivec2(other.x, one.y)) * share.x;
  int below = level(ivec2(one.x, other.y)) * (256 - share.x) + level(other) * share.x;
  return (above * (256 - share.y) + below * share.y + 16320) / 32640;
}

void main() {
  vec2 pixel = vec2(gl_FragCoord.x, height - gl_FragCoord.y);
  vec2 at = (pixel - place.xy) / place.z;
  if (any(lessThan(at, area.xy)) || any(greaterThanEqual(at, area.xy + area.zw))) discard;
  vec4 seen;
  if (isBefore) {
    seen = pick(before, at / vec2(whole), squares);
  } else {
    vec2 inside = (at - area.xy) / area.zw;
    int twice = hasMap ? mapped(clamp(ivec2(floor(at)), ivec2(0), whole - 1)) : position;
    bool crisp = twice > 256;
    int share = crisp ? twice - 256 : twice;
    ivec4 low = ivec4(pick(psnr, inside, exact) * 255.0 + 0.5);
    ivec4 middle = ivec4(pick(fused, inside, exact) * 255.0 + 0.5);
    ivec4 high = ivec4(pick(gan, inside, exact) * 255.0 + 0.5);
    ivec4 one = crisp ? middle : low;
    ivec4 other = crisp ? high : middle;
    seen = vec4((one * (256 - share) + other * share + 128) >> 8) / 255.0;
  }
  vec2 square = floor(pixel / 8.0);
  float board = mod(square.x + square.y, 2.0) == 0.0 ? 0.8 : 0.95;
  colour = vec4(mix(vec3(board), seen.rgb, seen.a), 1);
}`;

/** A painter, or null without WebGL 2; throws if the driver rejects the program. */
export function paintOnCard(canvas) {
  const gl = canvas.getContext("webgl2", { antialias: false, depth: false, powerPreference: "high-performance" });
  if (!gl) return null;
  const program = link(gl);
  gl.useProgram(program);
  gl.bindVertexArray(gl.createVertexArray());
  gl.enable(gl.SCISSOR_TEST);
  gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
  gl.pixelStorei(gl.UNPACK_PREMULTIPLY_ALPHA_WEBGL, false);
  const at = (name) => gl.getUniformLocation(program, name);
  const places = Object.fromEntries(
    ["whole", "area", "place", "height", "position", "isBefore", "exact", "squares", "hasMap"].map((name) => [name, at(name)]),
  );
  [...BRANCHES, "before", "levels"].forEach((name, unit) => gl.uniform1i(at(name), unit));
  const blank = texture(gl, new ImageData(1, 1));
  const noLevels = levelTexture(gl, { width: 1, height: 1, levels: new Uint8Array(1) });
  const layers = { base: null, detail: null };
  let before = null;
  let map = null;
  let levels = null;

  function bind(layer) {
    [...BRANCHES.map((name) => layer?.[name]), before].forEach((picture, unit) => {
      gl.activeTexture(gl.TEXTURE0 + unit);
      gl.bindTexture(gl.TEXTURE_2D, picture ?? blank);
    });
    gl.activeTexture(gl.TEXTURE4);
    gl.bindTexture(gl.TEXTURE_2D, levels ?? noLevels);
  }

  function paint(layer, area, zoom) {
    bind(layer);
    const squares = showsPixels(zoom);
    gl.uniform4f(places.area, ...area);
    gl.uniform1i(places.exact, layer?.whole && (zoom === 1 || squares) ? 1 : 0);
    gl.uniform1i(places.squares, squares ? 1 : 0);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  return {
    kind: "webgl2",
    side: gl.getParameter(gl.MAX_TEXTURE_SIZE),
    setBefore(bitmap) {
      gl.deleteTexture(before);
      before = bitmap && texture(gl, bitmap);
      bitmap?.close();
    },
    setLayer(name, layer) {
      for (const branch of BRANCHES) gl.deleteTexture(layers[name]?.[branch] ?? null);
      layers[name] = layer && {
        ...layer,
        ...Object.fromEntries(BRANCHES.map((branch) => [branch, texture(gl, layer[branch])])),
      };
    },
    /** Set a map instead of a single trade-off; with a box, only levels in it have changed. */
    setMap(next, box) {
      if (!next || next !== map) {
        gl.deleteTexture(levels);
        levels = next && levelTexture(gl, next);
      } else {
        putLevels(gl, levels, next, box ?? { x: 0, y: 0, width: next.width, height: next.height });
      }
      map = next;
    },
    draw(scene) {
      gl.viewport(0, 0, canvas.width, canvas.height);
      gl.scissor(0, 0, canvas.width, canvas.height);
      gl.clearColor(0, 0, 0, 0);
      gl.clear(gl.COLOR_BUFFER_BIT);
      const { share, first } = shares(scene.tradeOff);
      gl.uniform1i(places.position, first === "psnr" ? share : first === "fused" ? 256 + share : 512);
      gl.uniform2i(places.whole, scene.width, scene.height);
      gl.uniform1f(places.height, canvas.height);
      gl.uniform1i(places.hasMap, map ? 1 : 0);
      const all = [0, 0, scene.width, scene.height];
      for (const pane of scene.panes) {
        if (pane.right <= pane.left) continue;
        gl.scissor(pane.left, 0, pane.right - pane.left, canvas.height);
        gl.uniform3f(places.place, pane.x, pane.y, scene.zoom);
        gl.uniform1i(places.isBefore, pane.before ? 1 : 0);
        if (pane.before) paint(null, all, scene.zoom);
        else for (const layer of [layers.base, layers.detail]) if (layer) paint(layer, layer.area, scene.zoom);
      }
    },
  };
}

function link(gl) {
  const program = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, CORNERS], [gl.FRAGMENT_SHADER, COLOURS]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost()) {
    throw new Error(gl.getProgramInfoLog(program));
  }
  return program;
}

function texture(gl, bitmap) {
  const made = gl.createTexture();
  gl.activeTexture(gl.TEXTURE0);
  gl.bindTexture(gl.TEXTURE_2D, made);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  clamp(gl);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.LINEAR);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR_MIPMAP_LINEAR);
  gl.generateMipmap(gl.TEXTURE_2D);
  return made;
}

function levelTexture(gl, map) {
  const made = gl.createTexture();
  gl.activeTexture(gl.TEXTURE0);
  gl.bindTexture(gl.TEXTURE_2D, made);
  gl.texStorage2D(gl.TEXTURE_2D, 1, gl.R8UI, map.width, map.height);
  clamp(gl);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
  putLevels(gl, made, map, { x: 0, y: 0, width: map.width, height: map.height });
  return made;
}

function putLevels(gl, levels, map, { x, y, width, height }) {
  gl.activeTexture(gl.TEXTURE0);
  gl.bindTexture(gl.TEXTURE_2D, levels);
  gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
  gl.pixelStorei(gl.UNPACK_ROW_LENGTH, map.width);
  gl.texSubImage2D(gl.TEXTURE_2D, 0, x, y, width, height, gl.RED_INTEGER, gl.UNSIGNED_BYTE, map.levels, y * map.width + x);
  gl.pixelStorei(gl.UNPACK_ROW_LENGTH, 0);
}

function clamp(gl) {
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
}
