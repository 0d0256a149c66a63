"""Steps of a user's own `StepRunner`, torchkeras' extension point."""
