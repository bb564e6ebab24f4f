// A bundle with nothing but ONNX Runtime: run BUNDLE NEW_TOKENS END_ID PROMPT_ID… writes the ids of the likeliest
// continuation. The same steps as examples/python_bare/run.py.

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace {

/// The step graph with the cache of one sequence.
class Model {
public:
    explicit Model(const std::filesystem::path& graph) : environment_(ORT_LOGGING_LEVEL_ERROR, "onnxgpt") {
        session_ = Ort::Session(environment_, graph.c_str(), Ort::SessionOptions());
        Ort::AllocatorWithDefaultOptions allocator;
        for (std::size_t index = 0; index < session_.GetInputCount(); ++index) {
            const std::string name = session_.GetInputNameAllocated(index, allocator).get();
            if (name.rfind("past_key_values.", 0) != 0) continue;
            const auto type = session_.GetInputTypeInfo(index);
            const auto shape = type.GetTensorTypeAndShapeInfo().GetShape();
            // An empty cache: [batch, heads, positions, head size].
            const std::vector<std::int64_t> empty{1, shape[1], 0, shape[3]};
            cache_.push_back(Ort::Value::CreateTensor<float>(allocator, empty.data(), empty.size()));
            inputs_.push_back(name);
            outputs_.push_back("present" + name.substr(std::string("past_key_values").size()));
        }
        if (cache_.empty()) throw std::runtime_error("the graph has no past_key_values: expected a graph of a bundle");
    }

    /// Read more ids; give the likeliest next one.
    std::int64_t step(std::vector<std::int64_t> ids) {
        length_ += static_cast<std::int64_t>(ids.size());
        std::vector<std::int64_t> mask(static_cast<std::size_t>(length_), 1);
        std::vector<Ort::Value> values;
        values.push_back(row(ids));
        values.push_back(row(mask));
        for (auto& value : cache_) values.push_back(std::move(value));
        std::vector<const char*> inputs{"input_ids", "attention_mask"}, outputs{"logits"};
        for (const auto& name : inputs_) inputs.push_back(name.c_str());
        for (const auto& name : outputs_) outputs.push_back(name.c_str());
        auto results = session_.Run(Ort::RunOptions(), inputs.data(), values.data(), values.size(), outputs.data(), outputs.size());
        // The presents of a step are the pasts of the next.
        cache_.clear();
        for (std::size_t index = 1; index < results.size(); ++index) cache_.push_back(std::move(results[index]));
        const auto shape = results[0].GetTensorTypeAndShapeInfo().GetShape();  // [batch, positions, vocabulary]
        const float* last = results[0].GetTensorData<float>() + (shape[1] - 1) * shape[2];
        return std::max_element(last, last + shape[2]) - last;
    }

private:
    static Ort::Value row(std::vector<std::int64_t>& values) {
        const std::int64_t shape[] = {1, static_cast<std::int64_t>(values.size())};
        const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
        return Ort::Value::CreateTensor<std::int64_t>(memory, values.data(), values.size(), shape, 2);
    }

    Ort::Env environment_;
    Ort::Session session_{nullptr};
    std::vector<std::string> inputs_, outputs_;
    std::vector<Ort::Value> cache_;
    std::int64_t length_ = 0;
};

}  // namespace

int main(int count, char** arguments) {
    if (count < 5) {
        std::cerr << "usage: run BUNDLE NEW_TOKENS END_ID PROMPT_ID...\n";
        return 2;
    }
#ifndef _WIN32
    setenv("ORT_DISABLE_TELEMETRY", "1", 1);  // before the environment is made, or it looks up a host
#endif
    try {
        Model model(std::filesystem::path(arguments[1]) / "model.onnx");
        const std::int64_t end = std::stoll(arguments[3]);
        std::vector<std::int64_t> unread;
        for (int index = 4; index < count; ++index) unread.push_back(std::stoll(arguments[index]));
        for (long left = std::stol(arguments[2]); left > 0; --left) {
            const auto token = model.step(std::move(unread));
            std::cout << token << (left > 1 ? ' ' : '\n') << std::flush;
            if (token == end) break;
            unread = {token};
        }
    } catch (const std::exception& error) {
        std::cerr << "error: " << error.what() << '\n';
        return 1;
    }
}
