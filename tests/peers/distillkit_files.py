"""Folders as DistillKit's ``sample_logits_vllm.py`` writes them, by torch's calls, as described."""

from __future__ import annotations

import math

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml

DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}
PLAIN = {"exact_k": 8, "exact_dtype": "float32", "residual_bins": [], "delta_encoding": False}
HALVES = {**PLAIN, "exact_dtype": "bfloat16"}
DELTAS = {**PLAIN, "delta_encoding": True}
POLYNOMIAL = {
    "exact_k": 2,
    "exact_dtype": "float16",
    "polynomial_terms": [0, 1, 2, "sqrt"],
    "term_dtype": "float32",
    "residual_bins": [
        {"scale_dtype": "float16", "element_bits": 5, "num_elements": 3},
        {"scale_dtype": "float32", "element_bits": 1, "num_elements": 2},
    ],
    "delta_encoding": True,
    "normalize_t": True,
}
SCHEMA = pa.schema(
    [
        pa.field("input_ids", pa.list_(pa.uint64())),
        pa.field("compressed_logprobs", pa.list_(pa.list_(pa.uint8()))),
        pa.field("bytepacked_indices", pa.list_(pa.list_(pa.uint8()))),
    ]
)


def packed(values, bits):
    """(n, count) integers as (n, bytes), the highest bit first."""
    rows = []
    for row in values.tolist():
        text = "".join(format(int(value), f"0{bits}b") for value in row)
        text += "0" * (-len(text) % 8)
        rows.append([int(text[at : at + 8], 2) for at in range(0, len(text), 8)])
    return torch.tensor(rows, dtype=torch.uint8)


def as_bytes(values):
    return values.contiguous().view(torch.uint8).reshape(len(values), -1)


def compressed(logprobs, config):
    """(n, bytes) of falling (n, k), and (n, k) float64 what is to be read back from them."""
    values = logprobs.double()
    if config["delta_encoding"]:
        values = torch.cat([values[:, :1], values[:, 1:] - values[:, :-1]], dim=1)
    exact = values[:, : config["exact_k"]].to(DTYPES[config["exact_dtype"]])
    chunks, back = [as_bytes(exact)], [exact.double()]
    rest = values[:, config["exact_k"] :]
    approximate = torch.zeros_like(rest)
    if config.get("polynomial_terms"):
        count = rest.shape[1]
        t = torch.arange(count).double()
        if config["normalize_t"]:
            t = torch.linspace(0, 1, count, dtype=torch.float64)
        columns = [t.sqrt() if term == "sqrt" else t**term for term in config["polynomial_terms"]]
        terms = torch.stack(columns, 1)
        coefficients = (torch.linalg.pinv(terms) @ rest.T).T.to(DTYPES[config["term_dtype"]])
        chunks.append(as_bytes(coefficients))
        approximate = coefficients.double() @ terms.T
    at = 0
    for part in config["residual_bins"]:
        bits, count = part["element_bits"], part["num_elements"]
        residual = (rest - approximate)[:, at : at + count]
        lowest = 0 if bits == 1 else -(2 ** (bits - 1))
        highest = 1 if bits == 1 else 2 ** (bits - 1) - 1
        scale = residual.abs().amax(1, keepdim=True) / (1 if bits == 1 else 2 ** (bits - 1))
        scale = scale.to(DTYPES[part["scale_dtype"]])
        codes = (residual / scale.double()).round().clamp(lowest, highest) - lowest
        chunks += [as_bytes(scale), packed(codes, bits)]
        values_of = codes * 2 - 1 if bits == 1 else codes + lowest
        approximate[:, at : at + count] += values_of * scale.double()
        at += count
    read = torch.cat([*back, approximate], 1)
    return torch.cat(chunks, 1), read.cumsum(1) if config["delta_encoding"] else read


def write(folder, settings, *, rows=11, views=4, classes=100, k=8, rows_a_file=4, seed=0):
    """Write a folder; (rows, views, classes) float64 probabilities and 0 where none is stored."""
    generator = torch.Generator().manual_seed(seed)
    config = {"d": classes, "k": k, "error_diffusion": False, **settings}
    logits = torch.randn(rows * views, classes, generator=generator, dtype=torch.float64) * 2
    logprobs, ids = torch.log_softmax(logits, 1).topk(k, dim=1)
    data, read = compressed(logprobs, config)
    index_bytes = packed(ids, math.ceil(math.log2(classes)))
    dense = torch.zeros(rows * views, classes, dtype=torch.float64).scatter(1, ids, read.exp())
    folder.mkdir(parents=True)
    (folder / "compression_config.yaml").write_text(yaml.safe_dump(config))
    for start in range(0, rows, rows_a_file):
        part = range(start, min(start + rows_a_file, rows))
        spans = [slice(row * views, (row + 1) * views) for row in part]
        columns = [
            [[1] * (views + 1) for _ in part],
            [data[span].tolist() for span in spans],
            [index_bytes[span].tolist() for span in spans],
        ]
        arrays = [
            pa.array(column, type=field.type) for column, field in zip(columns, SCHEMA, strict=True)
        ]
        table = pa.Table.from_arrays(arrays, schema=SCHEMA)
        pq.write_table(table, folder / f"data_{start // rows_a_file}.parquet")
    return dense.reshape(rows, views, classes).numpy()
