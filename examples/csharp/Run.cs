// A bundle with nothing but ONNX Runtime (NuGet: Microsoft.ML.OnnxRuntime): Run BUNDLE NEW_TOKENS END_ID PROMPT_ID…
// writes the ids of the likeliest continuation. The same steps as examples/python_bare/run.py.

using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;

/// <summary>The step graph with the cache of one sequence.</summary>
sealed class Model : IDisposable
{
    const string Past = "past_key_values", Present = "present";
    readonly InferenceSession session;
    Dictionary<string, Tensor<float>> cache;
    int length;

    public Model(string graph)
    {
        session = new InferenceSession(graph);
        // An empty cache: [batch, heads, positions, head size].
        cache = session.InputMetadata
            .Where(input => input.Key.StartsWith(Past + ".", StringComparison.Ordinal))
            .ToDictionary(
                input => input.Key,
                input => (Tensor<float>)new DenseTensor<float>(new[] { 1, input.Value.Dimensions[1], 0, input.Value.Dimensions[3] }));
        if (cache.Count == 0) throw new InvalidDataException("the graph has no past_key_values: expected a graph of a bundle");
    }

    /// <summary>Read more ids; give the likeliest next one.</summary>
    public long Step(long[] ids)
    {
        length += ids.Length;
        var feeds = new List<NamedOnnxValue>
        {
            NamedOnnxValue.CreateFromTensor("input_ids", new DenseTensor<long>(ids, new[] { 1, ids.Length })),
            NamedOnnxValue.CreateFromTensor("attention_mask", new DenseTensor<long>(Enumerable.Repeat(1L, length).ToArray(), new[] { 1, length })),
        };
        feeds.AddRange(cache.Select(past => NamedOnnxValue.CreateFromTensor(past.Key, past.Value)));
        using var results = session.Run(feeds);
        // The presents of a step are the pasts of the next.
        cache = results
            .Where(result => result.Name.StartsWith(Present + ".", StringComparison.Ordinal))
            .ToDictionary(result => Past + result.Name.Substring(Present.Length), result => result.AsTensor<float>().Clone());
        var logits = results.First(result => result.Name == "logits").AsTensor<float>(); // [batch, positions, vocabulary]
        int position = logits.Dimensions[1] - 1, best = 0;
        for (int token = 1; token < logits.Dimensions[2]; token++)
            if (logits[0, position, token] > logits[0, position, best]) best = token;
        return best;
    }

    public void Dispose() => session.Dispose();
}

static class Program
{
    static int Main(string[] arguments)
    {
        if (arguments.Length < 4)
        {
            Console.Error.WriteLine("usage: Run BUNDLE NEW_TOKENS END_ID PROMPT_ID...");
            return 2;
        }
        using var model = new Model(Path.Combine(arguments[0], "model.onnx"));
        long end = long.Parse(arguments[2]);
        long[] unread = arguments.Skip(3).Select(long.Parse).ToArray();
        for (int left = int.Parse(arguments[1]); left > 0; left--)
        {
            long token = model.Step(unread);
            Console.Write(left > 1 ? $"{token} " : $"{token}\n");
            if (token == end) break;
            unread = new[] { token };
        }
        return 0;
    }
}
