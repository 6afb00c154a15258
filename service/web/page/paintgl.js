// The graphics card blends, scales and compares. A frame costs what is on the screen, whatever the
// size of the picture; the three branches stay on the card.

import { shares, showsPixels } from "./shares.js";

const BRANCHES = ["psnr", "fused", "gan"];

const CORNERS = `#version 300 es
void main() {
  gl_Position = vec4(4 * (gl_VertexID & 1) - 1, 2 * (gl_VertexID & 2) - 1, 0, 1);
}`;

// `share` and the sums are whole numbers: where pixels are shown one to one or larger, the colours
// are those that the service computes.
const COLOURS = `#version 300 es
precision highp float;
precision highp int;
precision highp sampler2D;
uniform sampler2D first, second, mask, before;
uniform vec2 whole;      // the result, in its pixels
uniform vec4 area;       // the part of it that this layer covers
uniform vec3 place;      // canvas pixel of the result's corner, canvas pixels for one of its own
uniform float height;    // of the canvas
uniform float split;     // canvas column where the result begins
uniform int share;       // of the second branch, in 256ths
uniform bool hasResult, hasBefore, exact, pixels, showMask;
out vec4 colour;

vec4 pick(sampler2D picture, vec2 inside, bool squares) {
  if (!squares) return texture(picture, inside);
  vec2 size = vec2(textureSize(picture, 0));
  return texelFetch(picture, ivec2(clamp(floor(inside * size), vec2(0), size - 1.0)), 0);
}

void main() {
  vec2 pixel = vec2(gl_FragCoord.x, height - gl_FragCoord.y);
  vec2 at = (pixel - place.xy) / place.z;
  if (any(lessThan(at, area.xy)) || any(greaterThanEqual(at, area.xy + area.zw))) discard;
  vec4 seen;
  if (hasResult && (pixel.x >= split || !hasBefore)) {
    vec2 inside = (at - area.xy) / area.zw;
    ivec4 a = ivec4(pick(first, inside, exact) * 255.0 + 0.5);
    ivec4 b = ivec4(pick(second, inside, exact) * 255.0 + 0.5);
    seen = vec4((a * (256 - share) + b * share + 128) >> 8) / 255.0;
    if (showMask) {
      float grey = dot(seen.rgb, vec3(0.2126, 0.7152, 0.0722));
      seen.rgb = mix(vec3(0.55 * grey), vec3(1.0, 0.62, 0.16), 0.85 * texture(mask, at / whole).r);
    }
  } else if (hasBefore) {
    seen = pick(before, at / whole, pixels);
  } else {
    discard;
  }
  vec2 square = floor(pixel / 8.0);
  float board = mod(square.x + square.y, 2.0) == 0.0 ? 0.8 : 0.95;
  colour = vec4(mix(vec3(board), seen.rgb, seen.a), 1);
}`;

/** A painter, or null where there is no WebGL 2. */
export function paintOnCard(canvas) {
  const gl = canvas.getContext("webgl2", { antialias: false, depth: false, powerPreference: "high-performance" });
  if (!gl) return null;
  const program = link(gl);
  gl.useProgram(program);
  gl.bindVertexArray(gl.createVertexArray());
  gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
  gl.pixelStorei(gl.UNPACK_PREMULTIPLY_ALPHA_WEBGL, false);
  const at = (name) => gl.getUniformLocation(program, name);
  const places = Object.fromEntries(
    ["whole", "area", "place", "height", "split", "share", "hasResult", "hasBefore", "exact", "pixels", "showMask"].map(
      (name) => [name, at(name)],
    ),
  );
  const UNITS = ["first", "second", "mask", "before"];
  UNITS.forEach((name, unit) => gl.uniform1i(at(name), unit));
  const blank = texture(gl, new ImageData(1, 1));
  const layers = { base: null, detail: null };
  let before = null;
  let mask = null;

  function drop(layer) {
    for (const name of BRANCHES) gl.deleteTexture(layer?.[name] ?? null);
  }

  function paint(layer, scene) {
    const { first, second, share } = shares(scene.tradeOff);
    [layer[first], layer[second], mask, before].forEach((picture, unit) => {
      gl.activeTexture(gl.TEXTURE0 + unit);
      gl.bindTexture(gl.TEXTURE_2D, picture ?? blank);
    });
    gl.uniform4f(places.area, ...layer.area);
    gl.uniform1i(places.hasResult, layer.psnr ? 1 : 0);
    const pixels = showsPixels(scene.zoom);
    gl.uniform1i(places.exact, layer.whole && (scene.zoom === 1 || pixels) ? 1 : 0);
    gl.uniform1i(places.pixels, pixels ? 1 : 0);
    gl.uniform1i(places.showMask, scene.mask ? 1 : 0);
    gl.uniform1i(places.share, share);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  return {
    kind: "webgl2",
    side: gl.getParameter(gl.MAX_TEXTURE_SIZE),
    setBefore(bitmap) {
      gl.deleteTexture(before);
      before = bitmap && texture(gl, bitmap);
    },
    setMask(bitmap) {
      gl.deleteTexture(mask);
      mask = bitmap && texture(gl, bitmap);
    },
    setLayer(name, layer) {
      drop(layers[name]);
      layers[name] = layer && {
        ...layer,
        ...Object.fromEntries(BRANCHES.map((branch) => [branch, texture(gl, layer[branch])])),
      };
    },
    draw(scene) {
      gl.viewport(0, 0, canvas.width, canvas.height);
      gl.clearColor(0, 0, 0, 0);
      gl.clear(gl.COLOR_BUFFER_BIT);
      gl.uniform2f(places.whole, scene.width, scene.height);
      gl.uniform3f(places.place, scene.x, scene.y, scene.zoom);
      gl.uniform1f(places.height, canvas.height);
      gl.uniform1f(places.split, scene.split);
      gl.uniform1i(places.hasBefore, before ? 1 : 0);
      paint(layers.base ?? { area: [0, 0, scene.width, scene.height] }, scene);
      if (layers.detail) paint(layers.detail, scene);
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
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.LINEAR);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR_MIPMAP_LINEAR);
  gl.generateMipmap(gl.TEXTURE_2D);
  bitmap.close?.(); // the card has it now
  return made;
}
